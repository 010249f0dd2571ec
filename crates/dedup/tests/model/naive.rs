//! The slow model: boxed iterators, one sample at a time, chunks walked in place. Clear before anything else.

use std::sync::Arc;

use parallax_dedup::DecodedChunk;
use parallax_model::{FloatHistogram, TimeRange};

/// A sample that compares floats by their bits.
#[derive(Clone, Debug)]
pub struct NaiveSample {
    pub time_ms: i64,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

impl NaiveSample {
    pub fn float(time_ms: i64, value: f64) -> Self {
        Self { time_ms, value: Value::Float(value) }
    }

    pub fn histogram(time_ms: i64, value: Arc<FloatHistogram>) -> Self {
        Self { time_ms, value: Value::Histogram(value) }
    }
}

impl PartialEq for NaiveSample {
    fn eq(&self, other: &Self) -> bool {
        self.time_ms == other.time_ms
            && match (&self.value, &other.value) {
                (Value::Float(a), Value::Float(b)) => {
                    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
                }
                (Value::Histogram(a), Value::Histogram(b)) => {
                    a.count.to_bits() == b.count.to_bits() && a.counter_reset_hint == b.counter_reset_hint
                }
                _ => false,
            }
    }
}

trait Walk {
    fn next(&mut self) -> bool;
    fn seek(&mut self, time_ms: i64) -> bool;
    fn at(&self) -> NaiveSample;
    fn adjust(&mut self, last: f64);
}

/// One replica: a list of samples (flattened or not, bounded), and what is added to its floats.
struct Leaf {
    samples: Vec<NaiveSample>,
    /// One past the current sample; 0 before the first call.
    position: usize,
    raised: f64,
}

impl Leaf {
    fn new(chunks: &[DecodedChunk], flatten: bool, range: TimeRange) -> Self {
        let mut samples: Vec<NaiveSample> = chunks
            .iter()
            .flat_map(|chunk| match chunk {
                DecodedChunk::Floats(floats) => {
                    floats.iter().map(|(t, v)| NaiveSample::float(t, v)).collect::<Vec<_>>()
                }
                DecodedChunk::Histograms(histograms) => {
                    histograms.iter().map(|(t, h)| NaiveSample::histogram(t, h.clone())).collect()
                }
            })
            .collect();
        if flatten {
            samples = flattened(samples);
        }
        samples.retain(|sample| range.contains(sample.time_ms));
        Self { samples, position: 0, raised: 0.0 }
    }
}

fn flattened(samples: Vec<NaiveSample>) -> Vec<NaiveSample> {
    let mut total = None;
    let mut last = 0.0;
    let mut output = Vec::new();
    for sample in samples {
        let Value::Float(value) = sample.value else {
            output.push(sample);
            continue;
        };
        if value.is_nan() {
            continue;
        }
        let sum = match total {
            None => value,
            Some(sum) if value >= last => sum + (value - last),
            Some(sum) => sum + value,
        };
        total = Some(sum);
        last = value;
        output.push(NaiveSample::float(sample.time_ms, sum));
    }
    output
}

impl Walk for Leaf {
    fn next(&mut self) -> bool {
        self.position += 1;
        self.position <= self.samples.len()
    }

    fn seek(&mut self, time_ms: i64) -> bool {
        while self.position == 0 || (self.position <= self.samples.len() && self.at().time_ms < time_ms) {
            self.next();
        }
        self.position <= self.samples.len()
    }

    fn at(&self) -> NaiveSample {
        let mut sample = self.samples[self.position - 1].clone();
        if let Value::Float(value) = &mut sample.value {
            *value += self.raised;
        }
        sample
    }

    fn adjust(&mut self, last: f64) {
        if let Value::Float(value) = self.at().value
            && last > value
        {
            self.raised += last - value;
        }
    }
}

struct Both {
    sides: [Box<dyn Walk>; 2],
    has: [bool; 2],
    penalty: [i64; 2],
    used: usize,
    last_ms: Option<i64>,
    raises: bool,
}

impl Both {
    fn new(mut left: Box<dyn Walk>, mut right: Box<dyn Walk>, raises: bool) -> Self {
        let has = [left.next(), right.next()];
        Self { sides: [left, right], has, penalty: [0, 0], used: 0, last_ms: None, raises }
    }

    fn pick(&mut self) -> Option<usize> {
        if let Some(last_ms) = self.last_ms {
            for side in 0..2 {
                if self.has[side] {
                    self.has[side] = self.sides[side].seek(last_ms + 1 + self.penalty[side]);
                }
            }
        }
        match self.has {
            [false, false] => None,
            [true, false] => Some(0),
            [false, true] => Some(1),
            [true, true] => {
                let winner = usize::from(self.sides[1].at().time_ms < self.sides[0].at().time_ms);
                self.penalty[1 - winner] = match self.last_ms {
                    Some(last_ms) => 2 * (self.sides[winner].at().time_ms - last_ms),
                    None => 5000,
                };
                Some(winner)
            }
        }
    }
}

impl Walk for Both {
    fn next(&mut self) -> bool {
        let before = self.used;
        let last = self.has[before].then(|| self.sides[before].at().value);
        let picked = self.pick();
        self.used = picked.unwrap_or(1);
        if let Some(picked) = picked {
            self.penalty[picked] = 0;
            self.last_ms = Some(self.sides[picked].at().time_ms);
        }
        if self.used != before
            && let Some(Value::Float(last)) = last
        {
            self.adjust(last);
        }
        picked.is_some()
    }

    fn seek(&mut self, time_ms: i64) -> bool {
        while self.has[self.used] && self.at().time_ms < time_ms {
            if !self.next() {
                return false;
            }
        }
        self.has[self.used]
    }

    fn at(&self) -> NaiveSample {
        self.sides[self.used].at()
    }

    fn adjust(&mut self, last: f64) {
        for side in 0..2 {
            if self.raises && self.has[side] && matches!(self.sides[side].at().value, Value::Float(_)) {
                self.sides[side].adjust(last);
            }
        }
    }
}

pub fn penalty(
    replicas: &[Vec<DecodedChunk>],
    flatten: bool,
    raises: bool,
    range: TimeRange,
) -> Vec<NaiveSample> {
    let mut leaves =
        replicas.iter().map(|chunks| Box::new(Leaf::new(chunks, flatten, range)) as Box<dyn Walk>);
    let mut walk = leaves.next().expect("a replica");
    for leaf in leaves {
        walk = Box::new(Both::new(walk, leaf, raises));
    }
    let mut output = Vec::new();
    while walk.next() {
        output.push(walk.at());
    }
    output
}
