//! Sums that do not lose small addends: Neumaier's variant of Kahan's summation.

/// A running sum with its compensation. Infinite sums have none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KahanSum {
    pub sum: f64,
    pub compensation: f64,
}

impl KahanSum {
    pub fn add(&mut self, value: f64) {
        let total = self.sum + value;
        self.compensation = if total.is_infinite() {
            0.0
        } else if self.sum.abs() >= value.abs() {
            self.compensation + ((self.sum - total) + value)
        } else {
            self.compensation + ((value - total) + self.sum)
        };
        self.sum = total;
    }

    pub fn value(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.compensation }
    }
}

/// A running mean: the sum over the count while the sum is finite, incremental from there on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KahanMean {
    total: KahanSum,
    count: f64,
    incremental: bool,
}

impl KahanMean {
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let mut total = self.total;
            total.add(value);
            // The first value is taken as it is, even an infinite one.
            if self.count == 1.0 || !total.sum.is_infinite() {
                self.total =
                    if self.count == 1.0 { KahanSum { sum: value, compensation: 0.0 } } else { total };
                return;
            }
            self.incremental = true;
            self.total.sum /= self.count - 1.0;
            self.total.compensation /= self.count - 1.0;
        }
        let weight = (self.count - 1.0) / self.count;
        let mut mean =
            KahanSum { sum: weight * self.total.sum, compensation: weight * self.total.compensation };
        mean.add(value / self.count);
        self.total = mean;
    }

    /// Adds `count` values whose sum is `sum`; it has to be finite, and the count positive.
    pub fn add_partial(&mut self, sum: f64, count: f64) {
        let before = self.count;
        self.count += count;
        if !self.incremental {
            let mut total = self.total;
            total.add(sum);
            if before == 0.0 || !total.sum.is_infinite() {
                self.total = if before == 0.0 { KahanSum { sum, compensation: 0.0 } } else { total };
                return;
            }
            self.incremental = true;
            self.total.sum /= before;
            self.total.compensation /= before;
        }
        let weight = before / self.count;
        let mut mean =
            KahanSum { sum: weight * self.total.sum, compensation: weight * self.total.compensation };
        mean.add(sum / self.count);
        self.total = mean;
    }

    pub fn value(self) -> f64 {
        if self.incremental {
            self.total.sum + self.total.compensation
        } else {
            self.total.sum / self.count + self.total.compensation / self.count
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_addends_survive_large_ones() {
        let mut sum = KahanSum::default();
        [1e100, 1.0, -1e100].into_iter().for_each(|value| sum.add(value));
        assert_eq!(sum.value(), 1.0);
    }

    #[test]
    fn a_mean_of_parts_is_that_of_the_whole() {
        let big = f64::MAX / 2.0;
        for parts in
            [vec![vec![1.0, 2.0], vec![6.0]], vec![vec![big, big], vec![big, -big]], vec![vec![f64::MAX]; 3]]
        {
            let (mut of_parts, mut of_all) = (KahanMean::default(), KahanMean::default());
            for part in &parts {
                of_parts.add_partial(part.iter().sum(), part.len() as f64);
                part.iter().for_each(|value| of_all.add(*value));
            }
            let (a, b) = (of_parts.value(), of_all.value());
            assert!(a == b || ((a - b) / b).abs() < 1e-15, "{parts:?}: {a} {b}");
        }
    }

    #[test]
    fn a_mean_does_not_overflow() {
        let mut mean = KahanMean::default();
        [f64::MAX, f64::MAX, f64::MAX].into_iter().for_each(|value| mean.add(value));
        assert!((mean.value() / f64::MAX - 1.0).abs() < 1e-15);
    }
}
