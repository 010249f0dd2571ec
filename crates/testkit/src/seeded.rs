//! Numbers from a seed: the same ones each time, and as many independent rows of them as a test needs.
//!
//! Source: splitmix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).

/// A row of numbers that a seed decides.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// Another row, which does not change this one: the same for the same number.
    #[must_use]
    pub fn row(&self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number.wrapping_add(STEP))))
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number().checked_rem(end).unwrap_or(0)
    }

    /// The same, as an index.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let index = self.index(all.len());
        all.get(index).expect("something to choose from")
    }
}

fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_same_each_time_and_differ_from_each_other() {
        let take = |mut row: Seeded| [(); 8].map(|()| row.number());
        let root = Seeded::new(5);
        assert_eq!(take(root.row(1)), take(Seeded::new(5).row(1)));
        assert_ne!(take(root.row(1)), take(root.row(2)));
        assert_ne!(take(root.clone()), take(Seeded::new(6)));
        assert!((0..1000).all(|number| root.row(number).below(7) < 7));
        let mut row = root.row(3);
        let hits = (0..1000).filter(|_| row.percent(30)).count();
        assert!((200..400).contains(&hits), "{hits}");
    }
}
