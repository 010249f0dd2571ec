//! [`SymbolMap`]: from the symbol numbers of one index to those of the merged set.
//!
//! Both sets are in the same order, so that it is enough to know which merged symbols the index has: a bit for each, and where to look for the n-th of the
//! bits that are set, instead of a number for each symbol.

use parallax_tsdb::index::SymbolRef;

const WORD_BITS: u32 = u64::BITS;

/// See the module.
#[derive(Debug)]
pub(super) enum SymbolMap {
    /// The numbers are the same; there are so many.
    Same(u32),
    Chosen(Chosen),
}

impl SymbolMap {
    /// The merged number of a symbol; `None` for one that the index does not have.
    #[inline]
    pub(super) fn get(&self, symbol: SymbolRef) -> Option<SymbolRef> {
        match self {
            Self::Same(count) => (symbol < *count).then_some(symbol),
            Self::Chosen(chosen) => chosen.get(symbol),
        }
    }
}

/// Some of the merged symbols.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    words: Vec<u64>,
    /// How many bits are set before each word.
    before: Vec<u32>,
    /// Of each 64th bit that is set, in which word it stands.
    places: Vec<u32>,
    merged: u32,
    count: u32,
}

impl Chosen {
    /// The next merged symbol, and whether the index has it.
    pub(super) fn push(&mut self, has: bool) {
        let bit = self.merged % WORD_BITS;
        if bit == 0 {
            self.words.push(0);
            self.before.push(self.count);
        }
        if has {
            if self.count.is_multiple_of(WORD_BITS) {
                self.places.push(self.merged / WORD_BITS);
            }
            if let Some(word) = self.words.last_mut() {
                *word |= 1 << bit;
            }
            self.count += 1;
        }
        // There are no more merged symbols than fit.
        self.merged += 1;
    }

    pub(super) fn finish(mut self) -> SymbolMap {
        if self.count == self.merged {
            return SymbolMap::Same(self.count);
        }
        self.words.shrink_to_fit();
        self.before.shrink_to_fit();
        SymbolMap::Chosen(self)
    }

    fn get(&self, symbol: SymbolRef) -> Option<SymbolRef> {
        if symbol >= self.count {
            return None;
        }
        let place = (symbol / WORD_BITS) as usize;
        let from = *self.places.get(place)? as usize;
        let to = self.places.get(place + 1).map_or(self.words.len(), |to| *to as usize + 1);
        // The last word with no more bits before it than come before the symbol.
        let behind = self.before.get(from..to)?.partition_point(|before| *before <= symbol);
        let word = from + behind.checked_sub(1)?;
        let mut bits = *self.words.get(word)?;
        for _ in *self.before.get(word)?..symbol {
            bits &= bits.wrapping_sub(1);
        }
        // A word of a set whose members are numbered with 32 bits.
        Some(word as u32 * WORD_BITS + bits.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_symbol_has_the_number_of_its_place(
            runs in prop::collection::vec((any::<bool>(), 1usize..300), 0..20),
            scattered in prop::collection::vec(any::<bool>(), 0..300),
        ) {
            let mut has: Vec<bool> = runs.iter().flat_map(|(has, count)| vec![*has; *count]).collect();
            has.extend(scattered);
            let mut chosen = Chosen::default();
            has.iter().for_each(|has| chosen.push(*has));
            let map = chosen.finish();
            let expected: Vec<u32> = (0..).zip(&has).filter(|(_, has)| **has).map(|(number, _)| number).collect();
            prop_assert_eq!(matches!(map, SymbolMap::Same(_)), expected.len() == has.len());
            for (symbol, merged) in (0..).zip(&expected) {
                prop_assert_eq!(map.get(symbol), Some(*merged));
            }
            prop_assert_eq!(map.get(expected.len() as u32), None);
            prop_assert_eq!(map.get(u32::MAX), None);
        }
    }
}
