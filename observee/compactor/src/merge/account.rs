//! [`Account`]: what went into a series, counted before it is merged, and held against what came out.
//!
//! The counts come from the headers of chunks, not from the merge: a chunk or a sample that a merge loses on its way is missed here. What is left out on purpose (a
//! time that two blocks have, a sample of the replica that is not followed) the merge itself has to say.

use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};
use parallax_tsdb::chunk::{ChunkEncoding, sample_count};

use super::overlap::{MergeFailure, MergeMode};

/// Samples of a series, and from when to when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) samples: u64,
    /// From the first sample to the last; `None` without chunks.
    pub(crate) range_ms: Option<(i64, i64)>,
}

impl Account {
    /// Counts chunks; of an aggregate chunk its windows.
    pub(crate) fn of<'a>(chunks: impl IntoIterator<Item = &'a BlockChunk>) -> Result<Self, MergeFailure> {
        let mut account = Self::default();
        for chunk in chunks {
            account.samples += samples_of(chunk).map_err(MergeFailure::of_chunk(chunk))?;
            let (min_ms, max_ms) = account.range_ms.unwrap_or((chunk.min_time_ms, chunk.max_time_ms));
            account.range_ms = Some((min_ms.min(chunk.min_time_ms), max_ms.max(chunk.max_time_ms)));
        }
        Ok(account)
    }

    /// Compares what went in with what came out of a merge that says how many samples it left out.
    pub(crate) fn check(self, out: Self, left_out: u64, mode: MergeMode) -> Result<(), MergeFailure> {
        if out.samples.checked_add(left_out) != Some(self.samples) {
            return Err(MergeFailure::Account(format!(
                "of {} samples {left_out} were left out, and {} were written",
                self.samples, out.samples
            )));
        }
        let (Some((begin_ms, end_ms)), Some((out_begin_ms, out_end_ms))) = (self.range_ms, out.range_ms)
        else {
            return Ok(());
        };
        // The last samples may be of a replica that was not followed to its end.
        let ends = match mode {
            MergeMode::OneToOne => out_end_ms == end_ms,
            MergeMode::Penalty => out_end_ms <= end_ms,
        };
        if out_begin_ms == begin_ms && ends {
            return Ok(());
        }
        Err(MergeFailure::Account(format!(
            "samples from {begin_ms} to {end_ms} ms became samples from {out_begin_ms} to {out_end_ms} ms"
        )))
    }
}

/// How many samples a chunk says it has; of an aggregate chunk how many windows.
pub(crate) fn samples_of(chunk: &BlockChunk) -> Result<u64, TsdbError> {
    let data = &chunk.chunk.data;
    let count = match chunk.chunk.encoding {
        ChunkEncoding::Aggregate => match Parts::decode(data)?.get(Aggregate::Count) {
            Some((_, counts)) => sample_count(counts)?,
            None => 0,
        },
        ChunkEncoding::None => 0,
        ChunkEncoding::Xor | ChunkEncoding::Histogram | ChunkEncoding::FloatHistogram => sample_count(data)?,
    };
    Ok(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(samples: u64, range_ms: (i64, i64)) -> Account {
        Account { samples, range_ms: Some(range_ms) }
    }

    #[test]
    fn what_is_missing_is_missed() {
        let before = account(10, (0, 90));
        for (out, left_out, mode, fits) in [
            (account(10, (0, 90)), 0, MergeMode::OneToOne, true),
            (account(7, (0, 90)), 3, MergeMode::OneToOne, true),
            (account(7, (0, 80)), 3, MergeMode::Penalty, true),
            // A sample less than it says, a sample more, an end that is gone, a beginning that is gone.
            (account(6, (0, 90)), 3, MergeMode::OneToOne, false),
            (account(8, (0, 90)), 3, MergeMode::Penalty, false),
            (account(7, (0, 80)), 3, MergeMode::OneToOne, false),
            (account(7, (10, 90)), 3, MergeMode::Penalty, false),
            (Account::default(), 0, MergeMode::OneToOne, false),
        ] {
            assert_eq!(before.check(out, left_out, mode).is_ok(), fits, "{out:?}, {left_out}, {mode:?}");
        }
    }
}
