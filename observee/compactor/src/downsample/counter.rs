//! A counter over several aggregate chunks, without its resets.
//!
//! A chunk begins with the first raw sample and ends with the last raw value under the time of the last window, from which a reset between two chunks is
//! seen. Source: Thanos' `ApplyCounterResetsSeriesIterator`.

use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::XorReader;

use super::float::FloatSample;

#[derive(Debug, Default)]
pub(super) struct CounterWithoutResets {
    last: Option<FloatSample>,
    total: f64,
}

impl CounterWithoutResets {
    /// Appends the samples of the next chunk.
    pub(super) fn read(&mut self, data: &[u8], out: &mut Vec<FloatSample>) -> Result<(), TsdbError> {
        for sample in XorReader::new(data)? {
            let (time_ms, value) = sample?;
            if value.is_nan() {
                continue;
            }
            match self.last {
                None => self.total = value,
                Some((last_ms, last)) if time_ms > last_ms => {
                    self.total += if value >= last { value - last } else { value };
                }
                Some((last_ms, _)) => {
                    if time_ms == last_ms {
                        self.last = Some((last_ms, value));
                    }
                    continue;
                }
            }
            self.last = Some((time_ms, value));
            out.push((time_ms, self.total));
        }
        Ok(())
    }

    /// The last raw value.
    pub(super) fn last_value(&self) -> Option<f64> {
        self.last.map(|(_, value)| value)
    }
}
