//! Files mapped into memory, as [`Bytes`].
//!
//! The files of a block are written once and renamed or uploaded when they are whole; nobody changes them afterwards. That is
//! the condition under which a mapping is sound, and the reason why nothing else may be opened here.

#![allow(unsafe_code)] // The one place where a mapping is made; see above for why it is sound.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::TsdbError;

/// Maps a finished file of a block. The mapping lives as long as any slice of the answer.
pub fn open(path: &Path) -> Result<Bytes, TsdbError> {
    let file = File::open(path).map_err(TsdbError::io(path))?;
    // SAFETY: the file is part of a finished block, which no process changes or truncates; readers only ever see plain bytes.
    let map = unsafe { Mmap::map(&file) }.map_err(TsdbError::io(path))?;
    Ok(Bytes::from_owner(map))
}
