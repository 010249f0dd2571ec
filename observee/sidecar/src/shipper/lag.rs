//! How far the bucket is behind: which blocks wait, since when, and whether Prometheus is about to delete them.
//!
//! A block is late from the moment its time is over: that is when its samples could have been in the bucket. Prometheus deletes a block
//! when its time has been over for as long as samples are kept.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use parallax_block::BlockMeta;
use parallax_model::Labels;
use parallax_storeapi::labels;
use parallax_storeapi::proto::parallax::v1::Shipper;

use crate::metrics::SidecarMetrics;

/// A lag of more than this part of Prometheus' retention is a warning.
const NEAR: f64 = 0.75;

/// What a shipper still has to do, as of its last look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shipping {
    /// Finished blocks that are not in the bucket yet.
    pub blocks_waiting: usize,
    /// The end of the oldest of them, in milliseconds since the epoch.
    pub oldest_waiting_ms: Option<i64>,
    /// When a block was last uploaded, by this process.
    pub last_upload_ms: Option<i64>,
    /// How long Prometheus keeps blocks, if it is by time.
    pub retention: Option<Duration>,
}

impl Shipping {
    /// How long the oldest block has been waiting at `now_ms`.
    pub fn lag(&self, now_ms: i64) -> Duration {
        let waited_ms = self.oldest_waiting_ms.map_or(0, |end_ms| now_ms.saturating_sub(end_ms));
        Duration::from_millis(u64::try_from(waited_ms).unwrap_or(0))
    }

    /// What is said of it, for blocks with these external labels.
    pub(crate) fn to_wire(self, labels: &Labels, now_ms: i64) -> Shipper {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Shipper {
            labels: Some(labels::set_to_wire(labels)),
            blocks_waiting: self.blocks_waiting as u64,
            oldest_waiting: self.oldest_waiting_ms,
            last_upload: self.last_upload_ms,
            retention: self.retention.map(millis),
            lag: millis(self.lag(now_ms)),
            nears_retention: self.nears_retention(now_ms),
        }
    }

    /// Whether Prometheus is about to delete what is not in the bucket.
    pub fn nears_retention(&self, now_ms: i64) -> bool {
        self.retention.is_some_and(|retention| self.lag(now_ms) >= retention.mul_f64(NEAR))
    }
}

/// Keeps the metrics of a shipper's lag current, and warns.
pub(crate) struct Lag {
    metrics: SidecarMetrics,
    shipping: Mutex<(Shipping, bool)>,
}

impl Lag {
    pub(super) fn new(metrics: SidecarMetrics) -> Self {
        Self { metrics, shipping: Mutex::default() }
    }

    pub fn now(&self) -> Shipping {
        self.lock().0
    }

    /// Takes note of what waits.
    pub fn waiting<'a>(&self, blocks: impl Iterator<Item = &'a BlockMeta>, now_ms: i64) {
        let (mut count, mut oldest_ms) = (0, None);
        for meta in blocks {
            count += 1;
            oldest_ms = Some(oldest_ms.map_or(meta.max_time_ms, |oldest: i64| oldest.min(meta.max_time_ms)));
        }
        {
            let mut shipping = self.lock();
            (shipping.0.blocks_waiting, shipping.0.oldest_waiting_ms) = (count, oldest_ms);
        }
        self.refresh(now_ms);
    }

    pub fn uploaded(&self, now_ms: i64) {
        self.lock().0.last_upload_ms = Some(now_ms);
        self.metrics.last_upload_seconds.set(now_ms as f64 / 1000.0);
    }

    pub fn retention(&self, retention: Option<Duration>) {
        self.lock().0.retention = retention;
        self.metrics.retention_seconds.set(retention.map_or(0.0, |retention| retention.as_secs_f64()));
    }

    /// Brings the metrics up to date: a lag grows while nothing happens.
    pub fn refresh(&self, now_ms: i64) {
        let mut guard = self.lock();
        let (shipping, warned) = &mut *guard;
        let (lag, near) = (shipping.lag(now_ms), shipping.nears_retention(now_ms));
        self.metrics.blocks_waiting.set(i64::try_from(shipping.blocks_waiting).unwrap_or(i64::MAX));
        self.metrics.upload_lag_seconds.set(lag.as_secs_f64());
        self.metrics.lag_nears_retention.set(i64::from(near));
        if near && !*warned {
            tracing::warn!(
                blocks_waiting = shipping.blocks_waiting,
                lag_seconds = lag.as_secs(),
                retention_seconds = shipping.retention.unwrap_or_default().as_secs(),
                "prometheus will soon delete blocks that are not in the bucket; mend the upload or keep samples longer"
            );
        } else if !near && *warned {
            tracing::info!(blocks_waiting = shipping.blocks_waiting, "no block is about to be lost any more");
        }
        *warned = near;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Shipping, bool)> {
        self.shipping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_grows_with_time_and_nears_what_prometheus_keeps() {
        let hour = Duration::from_secs(3600);
        let shipping = Shipping {
            blocks_waiting: 1,
            oldest_waiting_ms: Some(1_000),
            last_upload_ms: None,
            retention: Some(4 * hour),
        };
        assert_eq!(shipping.lag(0), Duration::ZERO);
        assert_eq!(shipping.lag(3_601_000), hour);
        assert!(!shipping.nears_retention(3 * 3_600_000 + 999));
        assert!(shipping.nears_retention(3 * 3_600_000 + 1_000));
        assert!(!Shipping { retention: None, ..shipping }.nears_retention(i64::MAX));
        assert!(!Shipping { oldest_waiting_ms: None, ..shipping }.nears_retention(i64::MAX));
    }
}
