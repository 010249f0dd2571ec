//! Short ranges of a local file that the system holds in memory: they are read on the thread that asks, because to hand such a read over to another
//! thread, and its outcome back, takes far longer than the read.
//!
//! Invariant: nothing here waits for a disk, and nothing here fails. What is not in memory, cannot be read so, or is no plain file is read the ordinary way,
//! which also says what is wrong with it. To open a file waits for nobody but a file system that asks a server for its name.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

/// Beyond so much in all, copying is work for another thread.
const SHORT_BYTES: u64 = 128 << 10;

/// The `ranges` of a file, none of them empty, each shorter where the file ends before it does; `None` unless all of it is in memory.
pub(super) fn read(file: &Path, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
    let wanted_bytes =
        ranges.iter().try_fold(0u64, |sum, range| sum.checked_add(range.end.checked_sub(range.start)?))?;
    if wanted_bytes > SHORT_BYTES {
        return None;
    }
    let file = open(file)?;
    ranges.iter().map(|range| read_range(&file, range)).collect()
}

/// A plain file. To open a pipe would wait for whoever writes into it.
#[cfg(target_os = "linux")]
fn open(file: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).ok()?;
    let file = File::options().read(true).custom_flags(flags).open(file).ok()?;
    file.metadata().is_ok_and(|found| found.is_file()).then_some(file)
}

/// Other systems cannot be asked what is in memory.
#[cfg(not(target_os = "linux"))]
fn open(_file: &Path) -> Option<File> {
    None
}

fn read_range(file: &File, range: &Range<u64>) -> Option<Bytes> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let offset = range.start.checked_add(filled as u64)?;
        match read_now(file, rest, offset)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    // A range that begins after the end is an error, and not this module's.
    (filled > 0).then(|| bytes.into())
}

/// As much as is in memory, 0 at the end of the file.
#[cfg(target_os = "linux")]
fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    preadv2(file, &mut [std::io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT).ok()
}

/// Other systems cannot be asked.
#[cfg(not(target_os = "linux"))]
fn read_now(_file: &File, _buffer: &mut [u8], _offset: u64) -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    use super::*;

    #[test]
    fn what_was_just_written_is_in_memory_and_ends_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("object");
        let content: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&file, &content).unwrap();
        let end = content.len() as u64;
        let ranges = [0..1, 4096..70_000, end - 10..end + 10];
        let Some(found) = read(&file, &ranges) else {
            // Not every file system can tell: then all reads go the ordinary way.
            let mut byte = [0];
            let file = File::open(&file).unwrap();
            let buffer = &mut [std::io::IoSliceMut::new(&mut byte)];
            let refused = preadv2(&file, buffer, 0, ReadWriteFlags::NOWAIT);
            assert!(matches!(refused, Err(Errno::OPNOTSUPP | Errno::AGAIN)), "{refused:?}");
            return;
        };
        for (range, bytes) in ranges.iter().zip(found) {
            assert_eq!(bytes, content[range.start as usize..(range.end as usize).min(content.len())]);
        }
    }

    #[test]
    fn what_is_long_or_missing_or_no_file_is_read_the_ordinary_way() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("object");
        std::fs::write(&file, vec![7; 1 << 20]).unwrap();
        let read_one = |file: &Path, range: Range<u64>| read(file, std::slice::from_ref(&range));
        assert_eq!(read_one(&file, 0..SHORT_BYTES + 1), None);
        assert_eq!(read(&file, &[0..1, 10..u64::MAX]), None);
        assert_eq!(read_one(&file, 1 << 20..(1 << 20) + 1), None);
        assert_eq!(read_one(&dir.path().join("other"), 0..1), None);
        assert_eq!(read_one(dir.path(), 0..1), None);
    }

    #[test]
    fn nobody_is_waited_for_to_write_into_a_pipe() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("object");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(read(&pipe, std::slice::from_ref(&(0..1))), None);
    }
}
