//! The table of contents at the end of an index: where each section begins.

use crate::crc::CRC_SIZE_BYTES;
use crate::cursor::Cursor;
use crate::error::TsdbError;

/// The size of the table with its checksum: the last bytes of every index.
pub const TOC_SIZE_BYTES: usize = 6 * 8 + CRC_SIZE_BYTES;

/// Where the sections of an index begin. They lie in this order (the unused label sections aside).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toc {
    pub symbols: u64,
    pub series: u64,
    /// No longer written: then the same as `postings`.
    pub label_indices: u64,
    pub postings: u64,
    /// No longer written: then the same as `postings_table`.
    pub label_indices_table: u64,
    pub postings_table: u64,
}

impl Toc {
    /// From the last [`TOC_SIZE_BYTES`] of an index that is `index_size_bytes` long.
    pub fn decode(what: &str, index_size_bytes: u64, tail: &[u8]) -> Result<Self, TsdbError> {
        let Some(start) = index_size_bytes.checked_sub(TOC_SIZE_BYTES as u64) else {
            return Err(TsdbError::truncated(what, 0, TOC_SIZE_BYTES as u64 - index_size_bytes));
        };
        let covered = Cursor::at(what, start, tail).checked_bytes(TOC_SIZE_BYTES - CRC_SIZE_BYTES)?;
        let mut cursor = Cursor::at(what, start, covered);
        let toc = Self {
            symbols: cursor.be_u64()?,
            series: cursor.be_u64()?,
            label_indices: cursor.be_u64()?,
            label_indices_table: cursor.be_u64()?,
            postings: cursor.be_u64()?,
            postings_table: cursor.be_u64()?,
        };
        let in_order = [toc.symbols, toc.series, toc.postings, toc.postings_table, start];
        if !in_order.is_sorted() {
            return Err(TsdbError::corrupt(
                what,
                start,
                "the sections of the table of contents are out of order",
            ));
        }
        Ok(toc)
    }

    pub fn encode(&self) -> [u8; TOC_SIZE_BYTES] {
        let fields = [
            self.symbols,
            self.series,
            self.label_indices,
            self.label_indices_table,
            self.postings,
            self.postings_table,
        ];
        let mut out = Vec::with_capacity(TOC_SIZE_BYTES);
        fields.iter().for_each(|field| out.extend(field.to_be_bytes()));
        out.extend(crate::crc::crc32c(&out).to_be_bytes());
        let mut array = [0; TOC_SIZE_BYTES];
        array.copy_from_slice(&out);
        array
    }

    /// No series entry reaches beyond this.
    pub fn series_end(&self) -> u64 {
        if (self.series..self.postings).contains(&self.label_indices) {
            self.label_indices
        } else {
            self.postings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_contents_comes_back_and_must_be_in_order() {
        let toc = Toc {
            symbols: 5,
            series: 20,
            label_indices: 60,
            postings: 70,
            label_indices_table: 90,
            postings_table: 90,
        };
        assert_eq!(Toc::decode("index", 200, &toc.encode()).unwrap(), toc);
        assert_eq!(toc.series_end(), 60);
        for bad in [Toc { series: 3, ..toc }, Toc { postings_table: 199, ..toc }] {
            assert!(Toc::decode("index", 200, &bad.encode()).unwrap_err().is_corruption());
        }
        assert!(Toc::decode("index", 51, &toc.encode()).is_err());
    }
}
