//! Which series have which label: collected while series are written, given back as postings lists.
//!
//! Memory is bounded: what exceeds a run is sorted and spilled to an unnamed file beside the block, and the runs are merged at the end. Series come in
//! order, so that of one label the list is the lists of the runs one behind the other. In a file each label of a run stands once, with the number of its
//! series and their distances, which takes little more than a byte per use. A list is given back piece by piece. When there are [`RUNS_OF_A_TIER`] files
//! they become one of the next tier, so that there are never many, and each use is written as often as there are tiers.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::spool::unnamed_file;
use super::symbols::SymbolRef;
use crate::cursor::{MAX_UVARINT64_BYTES, put_uvarint};
use crate::postings::SeriesRef;

/// Uses held in memory before they are spilled: 12 bytes each.
const RUN_LEN: usize = 128 << 10;

/// So many files of one tier become one of the next.
const RUNS_OF_A_TIER: usize = 16;

const SPILL_BUFFER_BYTES: usize = 16 << 10;

/// Series that are given back at once.
const PIECE_SERIES: usize = 4 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    label: Label,
    series: SeriesRef,
}

type Label = (SymbolRef, SymbolRef);

/// Lists come one after the other, in the order of their labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A list of so many series.
    Begin {
        name: SymbolRef,
        value: SymbolRef,
        count: u64,
    },
    /// More of its series, in order.
    Series(&'a [SeriesRef]),
    End,
}

/// The uses of all labels.
#[derive(Debug)]
pub(super) struct LabelUses {
    dir: PathBuf,
    run_len: usize,
    run: Vec<Use>,
    /// Later tiers hold earlier series; within a tier files are in the order of theirs.
    tiers: Vec<Vec<File>>,
}

impl LabelUses {
    /// Spills go to `dir`, where they have no name for longer than it takes to open them.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), run_len: RUN_LEN, run: Vec::new(), tiers: Vec::new() }
    }

    /// Notes labels of a series. Series come in the order of their refs.
    pub(super) fn push(&mut self, series: SeriesRef, labels: &[(SymbolRef, SymbolRef)]) -> io::Result<()> {
        if self.run.len() + labels.len() > self.run_len {
            self.spill()?;
        }
        self.run.extend(labels.iter().map(|label| Use { label: *label, series }));
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        self.run.sort_unstable();
        let run = Run::new(Source::Held { run: std::mem::take(&mut self.run), next: 0 })?;
        let (file, source) = write_run(&self.dir, vec![run])?;
        if let Some(Source::Held { mut run, .. }) = source {
            run.clear();
            self.run = run;
        }
        self.keep(file)
    }

    /// Adds a file behind the others, and makes few of many.
    fn keep(&mut self, mut file: File) -> io::Result<()> {
        let mut tier = 0;
        loop {
            if self.tiers.len() <= tier {
                self.tiers.push(Vec::new());
            }
            let Some(of_tier) = self.tiers.get_mut(tier) else { return Ok(()) };
            of_tier.push(file);
            if of_tier.len() < RUNS_OF_A_TIER {
                return Ok(());
            }
            let runs = of_tier.drain(..).map(Run::of_file).collect::<io::Result<Vec<_>>>()?;
            (file, _) = write_run(&self.dir, runs)?;
            tier += 1;
        }
    }

    /// Hands out every label with the series that have it, in the order of name and value.
    pub(super) fn visit<E: From<io::Error>>(
        mut self,
        visit: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.run.sort_unstable();
        let files = self.tiers.into_iter().rev().flatten();
        let mut runs = files.map(Run::of_file).collect::<io::Result<Vec<_>>>()?;
        runs.push(Run::new(Source::Held { run: self.run, next: 0 })?);
        merge(&mut runs, visit)
    }
}

/// Hands out the labels of runs, of which each holds later series than the one before.
fn merge<E: From<io::Error>>(
    runs: &mut [Run],
    mut visit: impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut piece = Vec::with_capacity(PIECE_SERIES);
    while let Some(least) = runs.iter().filter_map(|run| run.label).min() {
        let of_label = |run: &&Run| run.label == Some(least);
        let count = runs.iter().filter(of_label).map(|run| run.left).sum();
        visit(Piece::Begin { name: least.0, value: least.1, count })?;
        for run in runs.iter_mut().filter(|run| run.label == Some(least)) {
            while run.left > 0 {
                piece.clear();
                run.take(&mut piece)?;
                visit(Piece::Series(&piece))?;
            }
            run.next_label()?;
        }
        visit(Piece::End)?;
    }
    Ok(())
}

/// Writes runs as one to an unnamed file; gives back the memory of the first, too.
fn write_run(dir: &Path, mut runs: Vec<Run>) -> io::Result<(File, Option<Source>)> {
    let mut sink = BufWriter::with_capacity(SPILL_BUFFER_BYTES, unnamed_file(dir)?);
    let mut bytes = Vec::new();
    let mut last = 0;
    merge(&mut runs, |piece| -> io::Result<()> {
        bytes.clear();
        match piece {
            Piece::Begin { name, value, count } => {
                last = 0;
                for number in [u64::from(name), u64::from(value), count] {
                    put_uvarint(&mut bytes, number);
                }
            }
            Piece::Series(series) => {
                for series in series {
                    put_uvarint(&mut bytes, u64::from(series.wrapping_sub(last)));
                    last = *series;
                }
            }
            Piece::End => {}
        }
        sink.write_all(&bytes)
    })?;
    let mut file = sink.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok((file, runs.into_iter().next().map(|run| run.source)))
}

/// One sorted run, label by label.
struct Run {
    source: Source,
    /// `None` at the end.
    label: Option<Label>,
    /// Series of the label that are still to come.
    left: u64,
    last: SeriesRef,
}

enum Source {
    Held { run: Vec<Use>, next: usize },
    Spilled(BufReader<File>),
}

impl Run {
    fn of_file(file: File) -> io::Result<Self> {
        Self::new(Source::Spilled(BufReader::with_capacity(SPILL_BUFFER_BYTES, file)))
    }

    fn new(source: Source) -> io::Result<Self> {
        let mut run = Self { source, label: None, left: 0, last: 0 };
        run.next_label()?;
        Ok(run)
    }

    fn next_label(&mut self) -> io::Result<()> {
        (self.label, self.last) = (None, 0);
        match &mut self.source {
            Source::Held { run, next } => {
                let rest = run.get(*next..).unwrap_or_default();
                if let Some(first) = rest.first() {
                    self.label = Some(first.label);
                    self.left = rest.partition_point(|used| used.label == first.label) as u64;
                }
            }
            Source::Spilled(file) => {
                if let Some(name) = read_uvarint(file)? {
                    let value = read_uvarint(file)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    self.label = Some((as_u32(name)?, as_u32(value)?));
                    self.left = read_uvarint(file)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                }
            }
        }
        Ok(())
    }

    /// Appends the next series of the label.
    fn take(&mut self, piece: &mut Vec<SeriesRef>) -> io::Result<()> {
        let count = self.left.min(PIECE_SERIES as u64);
        match &mut self.source {
            Source::Held { run, next } => {
                let rest = run.get(*next..).unwrap_or_default();
                piece.extend(rest.iter().take(count as usize).map(|used| used.series));
                *next += count as usize;
            }
            Source::Spilled(file) => {
                for _ in 0..count {
                    let distance = read_uvarint(file)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    self.last = self.last.wrapping_add(as_u32(distance)?);
                    piece.push(self.last);
                }
            }
        }
        self.left -= count;
        Ok(())
    }
}

/// `None` at the end of the file.
fn read_uvarint(file: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut value = 0;
    for place in 0..MAX_UVARINT64_BYTES {
        let Some(byte) = file.fill_buf()?.first().copied() else {
            return if place == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        };
        file.consume(1);
        value |= u64::from(byte & 0x7f) << (7 * place).min(63);
        if byte < 0x80 {
            return Ok(Some(value));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn as_u32(value: u64) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spilled_or_not_every_use_comes_back_in_order(
            series in prop::collection::vec(prop::collection::btree_map(0u32..5, 0u32..4, 0..4), 0..300),
            // Of one use for each run there are several tiers.
            run_len in 1usize..30,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut uses = LabelUses { run_len, ..LabelUses::new(dir.path()) };
            let mut model: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
            // Far apart, so that distances take several bytes.
            for (series, labels) in (10..).step_by(70_000).zip(&series) {
                let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, *value)).collect();
                uses.push(series, &labels).unwrap();
                labels.iter().for_each(|pair| model.entry(*pair).or_default().push(series));
            }
            let mut seen: Vec<((u32, u32), Vec<u32>)> = Vec::new();
            let mut wanted = 0;
            uses.visit(|piece| -> io::Result<()> {
                match piece {
                    Piece::Begin { name, value, count } => {
                        wanted = count;
                        seen.push(((name, value), Vec::new()));
                    }
                    Piece::Series(series) => seen.last_mut().unwrap().1.extend(series),
                    Piece::End => assert_eq!(seen.last().unwrap().1.len() as u64, wanted),
                }
                Ok(())
            })
            .unwrap();
            prop_assert_eq!(seen, model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn lists_that_are_longer_than_a_piece_come_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut uses = LabelUses { run_len: 7_000, ..LabelUses::new(dir.path()) };
        for series in 0..20_000 {
            uses.push(series, &[(0, 0)]).unwrap();
        }
        let (mut seen, mut counted) = (Vec::new(), 0);
        uses.visit(|piece| -> io::Result<()> {
            match piece {
                Piece::Begin { count, .. } => counted = count,
                Piece::Series(series) => {
                    assert!(series.len() <= PIECE_SERIES);
                    seen.extend_from_slice(series);
                }
                Piece::End => {}
            }
            Ok(())
        })
        .unwrap();
        assert!(counted == 20_000 && seen.into_iter().eq(0..20_000));
    }
}
