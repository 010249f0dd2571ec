//! Which steps of a row have a float.

/// One bit per step. Bits at and beyond `len` are always 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

pub(crate) const WORD_BITS: usize = 64;

impl Bitmap {
    pub fn empty(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(WORD_BITS)], len }
    }

    pub fn full(len: usize) -> Self {
        let mut bitmap = Self { words: vec![u64::MAX; len.div_ceil(WORD_BITS)], len };
        let spare = len % WORD_BITS;
        if spare > 0
            && let Some(last) = bitmap.words.last_mut()
        {
            *last = (1 << spare) - 1;
        }
        bitmap
    }

    pub fn get(&self, index: usize) -> bool {
        self.words.get(index / WORD_BITS).is_some_and(|word| word >> (index % WORD_BITS) & 1 == 1)
    }

    pub fn set(&mut self, index: usize) {
        debug_assert!(index < self.len);
        if let Some(word) = self.words.get_mut(index / WORD_BITS) {
            *word |= 1 << (index % WORD_BITS);
        }
    }

    pub fn unset(&mut self, index: usize) {
        if let Some(word) = self.words.get_mut(index / WORD_BITS) {
            *word &= !(1 << (index % WORD_BITS));
        }
    }

    /// The bits, [`WORD_BITS`] steps in each word, the first step in the lowest bit. Those beyond the end have to stay 0.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn any(&self) -> bool {
        self.words.iter().any(|word| *word != 0)
    }

    pub fn is_full(&self) -> bool {
        self.count() == self.len
    }

    pub fn union_with(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(mine, theirs)| *mine |= theirs);
    }

    pub fn intersect_with(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(mine, theirs)| *mine &= theirs);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(mine, theirs)| *mine &= !theirs);
    }

    /// The steps of both.
    pub fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.intersect_with(other);
        both
    }

    /// The lowest step of both, if there is one.
    pub fn first_common(&self, other: &Self) -> Option<usize> {
        self.words.iter().zip(&other.words).position(|(a, b)| a & b != 0).and_then(|word| {
            let both = self.words.get(word)? & other.words.get(word)?;
            Some(word * WORD_BITS + both.trailing_zeros() as usize)
        })
    }

    /// The steps, ascending.
    pub fn ones(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    at * WORD_BITS + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_end_do_not_exist() {
        for len in [0, 1, 63, 64, 65, 130] {
            let full = Bitmap::full(len);
            assert_eq!(full.count(), len);
            assert!(full.is_full());
            assert_eq!(full.ones().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_common_step_is_found() {
        let (mut a, mut b) = (Bitmap::empty(100), Bitmap::empty(100));
        a.set(3);
        a.set(70);
        b.set(70);
        b.set(99);
        assert_eq!(a.first_common(&b), Some(70));
        b.unset(70);
        assert_eq!(a.first_common(&b), None);
        a.subtract(&Bitmap::full(100));
        assert!(!a.any());
    }
}
