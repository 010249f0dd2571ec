//! Which series have which label: collected while series are written, given back as postings lists.
//!
//! Memory is bounded: what exceeds a run is sorted and spilled to an unnamed file beside the block, and the runs are merged at the end. Series come in
//! order, so that of one label the list is the lists of the runs one behind the other.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::symbols::SymbolRef;
use crate::postings::SeriesRef;

/// Uses held in memory before they are spilled: 12 bytes each.
const RUN_LEN: usize = 2 << 20;

const SPILL_BUFFER_BYTES: usize = 64 << 10;
const USE_SIZE_BYTES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    name: SymbolRef,
    value: SymbolRef,
    series: SeriesRef,
}

/// The uses of all labels.
#[derive(Debug)]
pub(super) struct LabelUses {
    dir: PathBuf,
    run_len: usize,
    run: Vec<Use>,
    spilled: Vec<File>,
}

impl LabelUses {
    /// Spills go to `dir`, where they have no name for longer than it takes to open them.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), run_len: RUN_LEN, run: Vec::new(), spilled: Vec::new() }
    }

    /// Notes the labels of a series. Series come in the order of their refs.
    pub(super) fn push(&mut self, series: SeriesRef, labels: &[(SymbolRef, SymbolRef)]) -> io::Result<()> {
        if self.run.len() + labels.len() > self.run_len {
            self.spill()?;
        }
        self.run.extend(labels.iter().map(|(name, value)| Use { name: *name, value: *value, series }));
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        self.run.sort_unstable();
        let path = self.dir.join(format!("postings-{}.tmp", self.spilled.len()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        // Unlinked at once: it goes away with the process, however that ends.
        std::fs::remove_file(&path)?;
        let mut sink = BufWriter::with_capacity(SPILL_BUFFER_BYTES, file);
        for used in self.run.drain(..) {
            for part in [used.name, used.value, used.series] {
                sink.write_all(&part.to_le_bytes())?;
            }
        }
        let mut file = sink.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.spilled.push(file);
        Ok(())
    }

    /// Hands out every label with the series that have it, in the order of name and value.
    pub(super) fn visit<E: From<io::Error>>(
        mut self,
        mut visit: impl FnMut(SymbolRef, SymbolRef, &[SeriesRef]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.run.sort_unstable();
        let mut runs: Vec<Run> = Vec::with_capacity(self.spilled.len() + 1);
        for file in self.spilled {
            runs.push(Run::Spilled(Spill::new(file)?));
        }
        runs.push(Run::Held { run: self.run, next: 0 });
        let mut list = Vec::new();
        while let Some(least) = runs.iter().filter_map(Run::peek).map(|used| (used.name, used.value)).min() {
            list.clear();
            for run in &mut runs {
                while let Some(used) = run.peek().filter(|used| (used.name, used.value) == least) {
                    list.push(used.series);
                    run.advance()?;
                }
            }
            visit(least.0, least.1, &list)?;
        }
        Ok(())
    }
}

enum Run {
    Held { run: Vec<Use>, next: usize },
    Spilled(Spill),
}

impl Run {
    #[inline]
    fn peek(&self) -> Option<Use> {
        match self {
            Self::Held { run, next } => run.get(*next).copied(),
            Self::Spilled(spill) => spill.current,
        }
    }

    #[inline]
    fn advance(&mut self) -> io::Result<()> {
        match self {
            Self::Held { next, .. } => *next += 1,
            Self::Spilled(spill) => spill.advance()?,
        }
        Ok(())
    }
}

struct Spill {
    source: BufReader<File>,
    current: Option<Use>,
}

impl Spill {
    fn new(file: File) -> io::Result<Self> {
        let mut spill = Self { source: BufReader::with_capacity(SPILL_BUFFER_BYTES, file), current: None };
        spill.advance()?;
        Ok(spill)
    }

    fn advance(&mut self) -> io::Result<()> {
        let mut bytes = [0; USE_SIZE_BYTES];
        match self.source.read_exact(&mut bytes) {
            Ok(()) => {
                let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
                self.current = Some(Use {
                    name: u32::from_le_bytes([a, b, c, d]),
                    value: u32::from_le_bytes([e, f, g, h]),
                    series: u32::from_le_bytes([i, j, k, l]),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.current = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spilled_or_not_every_use_comes_back_in_order(
            series in prop::collection::vec(prop::collection::btree_map(0u32..5, 0u32..4, 0..4), 0..40),
            run_len in 1usize..30,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut uses = LabelUses { run_len, ..LabelUses::new(dir.path()) };
            let mut model: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
            for (series, labels) in (10..).zip(&series) {
                let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, *value)).collect();
                uses.push(series, &labels).unwrap();
                labels.iter().for_each(|pair| model.entry(*pair).or_default().push(series));
            }
            let mut seen = Vec::new();
            uses.visit(|name, value, list| -> io::Result<()> {
                seen.push(((name, value), list.to_vec()));
                Ok(())
            })
            .unwrap();
            prop_assert_eq!(seen, model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
