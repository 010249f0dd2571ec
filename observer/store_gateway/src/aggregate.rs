//! Taking an aggregate chunk apart: five chunks in one, of which a request wants some.
//!
//! Layout (contract of downsampled blocks): in the order count, sum, min, max, counter, each a uvarint `L`, and unless `L` is 0,
//! which means absent, one byte of encoding and `L` bytes. Source: Thanos `pkg/compact/downsample/aggr.go`.

use bytes::Bytes;
use parallax_storeapi::chunks;
use parallax_storeapi::proto::thanos::{Aggr, AggrChunk, Chunk, chunk};
use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::ChunkEncoding;
use parallax_tsdb::cursor::Cursor;

/// The aggregates in the order of their entries.
const ORDER: [Aggr; 5] = [Aggr::Count, Aggr::Sum, Aggr::Min, Aggr::Max, Aggr::Counter];

/// The wire's name of a stored encoding; `None` for those that are no chunk of samples.
pub fn wire_encoding(encoding: ChunkEncoding) -> Option<chunk::Encoding> {
    match encoding {
        ChunkEncoding::Xor => Some(chunk::Encoding::Xor),
        ChunkEncoding::Histogram => Some(chunk::Encoding::Histogram),
        ChunkEncoding::FloatHistogram => Some(chunk::Encoding::FloatHistogram),
        ChunkEncoding::None | ChunkEncoding::Aggregate => None,
    }
}

/// Puts the `wanted` aggregates of the chunk `data` (which lies at `offset` of `what`) into `into`, without copying them.
///
/// # Errors
/// If the chunk is not what its format says. An aggregate that is absent is left out: histograms have no min and max.
pub fn split(
    what: &str,
    offset: u64,
    data: &Bytes,
    wanted: &[Aggr],
    into: &mut AggrChunk,
) -> Result<(), TsdbError> {
    let mut cursor = Cursor::at(what, offset, data);
    for aggregate in ORDER {
        let length = cursor.uvarint64()?;
        if length == 0 {
            continue;
        }
        let encoding_offset = cursor.offset();
        let number = cursor.u8()?;
        let length = usize::try_from(length).map_err(|_| cursor.corrupt("an aggregate is too long"))?;
        let part = cursor.bytes(length)?;
        if !wanted.contains(&aggregate) {
            continue;
        }
        let Some(encoding) = ChunkEncoding::from_byte(number).and_then(wire_encoding) else {
            return Err(TsdbError::unsupported(what, encoding_offset, "chunk encoding", number));
        };
        put(into, aggregate, chunks::chunk(encoding, data.slice_ref(part)));
    }
    Ok(())
}

fn put(into: &mut AggrChunk, aggregate: Aggr, chunk: Chunk) {
    match aggregate {
        Aggr::Raw => into.raw = Some(chunk),
        Aggr::Count => into.count = Some(Box::new(chunk)),
        Aggr::Sum => into.sum = Some(Box::new(chunk)),
        Aggr::Min => into.min = Some(Box::new(chunk)),
        Aggr::Max => into.max = Some(Box::new(chunk)),
        Aggr::Counter => into.counter = Some(Box::new(chunk)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_bytes_never_panic_and_never_reach_outside(bytes: Vec<u8>) {
            let data = Bytes::from(bytes);
            let mut chunk = AggrChunk::default();
            let _ = split("x", u64::MAX, &data, &ORDER, &mut chunk);
            let parts: usize = chunks::parts(&chunk).map(|(_, part)| part.data.len()).sum();
            prop_assert!(parts <= data.len());
        }
    }

    #[test]
    fn only_wanted_and_present_aggregates_come_out() {
        // count and counter only.
        let data = Bytes::from_static(&[2, 1, 10, 11, 0, 0, 0, 1, 3, 12]);
        let mut chunk = AggrChunk::default();
        split("x", 0, &data, &[Aggr::Counter, Aggr::Sum], &mut chunk).unwrap();
        assert!(chunk.count.is_none() && chunk.sum.is_none());
        let counter = chunk.counter.unwrap();
        assert_eq!((counter.r#type(), &counter.data[..]), (chunk::Encoding::FloatHistogram, &[12][..]));
    }

    #[test]
    fn damage_is_an_error_with_its_place() {
        for bytes in [&[][..], &[5, 1, 2], &[1, 9, 7, 0, 0, 0, 0], &[0xff; 12]] {
            let data = Bytes::copy_from_slice(bytes);
            let mut chunk = AggrChunk::default();
            let error = split("b/chunks/000001", 40, &data, &[Aggr::Count], &mut chunk).unwrap_err();
            assert!(error.to_string().contains("b/chunks/000001"), "{error}");
        }
    }
}
