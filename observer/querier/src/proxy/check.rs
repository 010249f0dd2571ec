//! What an endpoint sends, looked at before it is merged: one endpoint's nonsense must not become everybody's.
//!
//! Invariant: what passes has labels that are UTF-8, sorted by name and unique, comes in order, and has chunks whose times, encodings and hashes fit. What
//! does not is left out, told once with the first reason and counted at the end; the rest of the endpoint's series goes on. So is what claims to be another
//! cluster than its endpoint is declared as ([`Claim`]). Whether a chunk's bytes can be decoded shows only when they are (`select/stream.rs`).

use parallax_storeapi::proto::thanos::{AggrChunk, Label, Series, chunk};
use parallax_storeapi::withhold::is_withheld;
use parallax_storeapi::{chunks, labels};

use crate::claim::{Claim, ForeignLabels};
use crate::endpoint::ForeignCounter;

/// What an endpoint's series are held to, and where breaches of it are counted.
pub(super) struct Held {
    pub claim: Claim,
    pub counter: ForeignCounter,
}

pub(super) struct Checker {
    /// Bytes of this process have not travelled: no hash is looked at.
    hashes: bool,
    held: Option<Held>,
    last: Vec<Label>,
    left_out: u64,
    news: Option<String>,
    refused: Option<String>,
}

impl Checker {
    pub fn new(is_local: bool, held: Option<Held>) -> Self {
        Self { hashes: !is_local, held, last: Vec::new(), left_out: 0, news: None, refused: None }
    }

    /// Takes out what is malformed.
    pub fn sift(&mut self, series: &mut Vec<Series>) {
        series.retain_mut(|one| match bad_labels(&one.labels) {
            Some(reason) => {
                self.leave_out(|| format!("series {} {reason}", labels::display(&one.labels)));
                false
            }
            None if self.is_foreign(&one.labels) => false,
            None => {
                let Series { labels, chunks } = one;
                chunks.retain(|chunk| match bad_chunk(chunk, self.hashes) {
                    Some(reason) => {
                        let (min, max) = (chunk.min_time, chunk.max_time);
                        self.leave_out(|| {
                            format!("series {}: chunk [{min}, {max}] {reason}", labels::display(labels))
                        });
                        false
                    }
                    None => true,
                });
                true
            }
        });
    }

    /// Whether a series is another cluster's, and has to go.
    fn is_foreign(&mut self, labels: &[Label]) -> bool {
        let Some(held) = self.held.as_ref().filter(|held| held.claim.mode() != ForeignLabels::Inject) else {
            return false;
        };
        let Some(reason) = held.claim.foreign(labels) else { return false };
        held.counter.inc();
        let refuses = held.claim.mode() == ForeignLabels::Refuse;
        let reason = || format!("series {} {reason}", labels::display(labels));
        if refuses {
            self.refused.get_or_insert_with(reason);
        } else {
            self.leave_out(reason);
        }
        true
    }

    /// Why nothing more of the endpoint is taken.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Takes out series that come after one that sorts above them: merged, they would come twice.
    pub fn sort_out(&mut self, series: &mut Vec<Series>) {
        let in_order = series.first().is_none_or(|first| labels::compare(&self.last, &first.labels).is_le())
            && series.is_sorted_by(|a, b| labels::compare(&a.labels, &b.labels).is_le());
        if !in_order {
            self.sort_out_one_by_one(series);
        }
        if let Some(last) = series.last() {
            self.last.clone_from(&last.labels);
        }
    }

    fn sort_out_one_by_one(&mut self, series: &mut Vec<Series>) {
        let mut last = std::mem::take(&mut self.last);
        series.retain(|one| {
            if labels::compare(&last, &one.labels).is_gt() {
                self.leave_out(|| {
                    let (one, last) = (labels::display(&one.labels), labels::display(&last));
                    format!("series {one} is out of order: it came after {last}")
                });
                return false;
            }
            last.clone_from(&one.labels);
            true
        });
        self.last = last;
    }

    /// The first thing that was left out, when it is new.
    pub fn take_news(&mut self) -> Option<String> {
        self.news.take().map(|reason| format!("{reason}; it is left out"))
    }

    /// How much was left out in all, if that was not told yet.
    pub fn summary(&self) -> Option<String> {
        (self.left_out > 1).then(|| {
            format!("{} series or chunks that are malformed or not its own were left out", self.left_out)
        })
    }

    fn leave_out(&mut self, reason: impl FnOnce() -> String) {
        self.left_out += 1;
        if self.left_out == 1 {
            self.news = Some(reason());
        }
    }
}

fn bad_labels(labels: &[Label]) -> Option<&'static str> {
    if !labels.is_sorted_by(|a, b| a.name < b.name) {
        return Some("has labels that are not sorted or come twice");
    }
    let is_text = |text: &[u8]| std::str::from_utf8(text).is_ok();
    if labels.iter().any(|label| !is_text(&label.name) || !is_text(&label.value)) {
        return Some("has a label that is not UTF-8");
    }
    labels.first().is_some_and(|label| label.name.is_empty()).then_some("has a label without a name")
}

fn bad_chunk(chunk: &AggrChunk, hashes: bool) -> Option<&'static str> {
    if chunk.min_time > chunk.max_time {
        return Some("ends before it begins");
    }
    for (_, part) in chunks::parts(chunk) {
        if chunk::Encoding::try_from(part.r#type).is_err() {
            return Some("has an unknown encoding");
        }
        if hashes && part.hash != 0 && !is_withheld(part) && part.hash != chunks::hash(&part.data) {
            return Some("does not have the hash it was sent with");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use parallax_model::Labels;

    fn series(pairs: &[(&str, &str)], chunks: Vec<AggrChunk>) -> Series {
        let labels = pairs
            .iter()
            .map(|(name, value)| Label {
                name: bytes::Bytes::copy_from_slice(name.as_bytes()),
                value: bytes::Bytes::copy_from_slice(value.as_bytes()),
            })
            .collect();
        Series { labels, chunks }
    }

    fn chunk(min: i64, max: i64) -> AggrChunk {
        chunks::raw(min, max, chunks::chunk(chunk::Encoding::Xor, bytes::Bytes::from_static(b"data")))
    }

    fn changed(change: impl Fn(&mut AggrChunk)) -> AggrChunk {
        let mut changed = chunk(0, 9);
        change(&mut changed);
        changed
    }

    #[test]
    fn malformed_series_and_chunks_are_left_out_and_told_once() {
        let mut bad_text = series(&[("a", "1")], vec![]);
        bad_text.labels[0].value = bytes::Bytes::from_static(&[0xff]);
        let mut all = vec![
            series(&[("b", "1"), ("a", "1")], vec![]),
            series(&[("a", "1"), ("a", "2")], vec![]),
            series(&[("", "1")], vec![]),
            bad_text,
            series(
                &[("a", "1")],
                vec![
                    chunk(0, 9),
                    chunk(10, 9),
                    changed(|chunk| chunk.raw.as_mut().unwrap().r#type = 9),
                    changed(|chunk| chunk.raw.as_mut().unwrap().hash = 9),
                    changed(|chunk| chunk.raw.as_mut().unwrap().hash = 0),
                ],
            ),
        ];
        let mut checker = Checker::new(false, None);
        checker.sift(&mut all);
        let left = [chunk(0, 9), changed(|chunk| chunk.raw.as_mut().unwrap().hash = 0)];
        assert_eq!(all, [series(&[("a", "1")], left.to_vec())]);
        let news = checker.take_news().unwrap();
        assert!(news.starts_with(r#"series {a="1", b="1"} has labels that are not sorted"#), "{news}");
        assert_eq!(checker.take_news(), None);
        assert_eq!(
            checker.summary().unwrap(),
            "7 series or chunks that are malformed or not its own were left out"
        );
    }

    #[test]
    fn hashes_are_of_what_has_travelled() {
        let mut all =
            vec![series(&[("a", "1")], vec![changed(|chunk| chunk.raw.as_mut().unwrap().hash = 9)])];
        let mut checker = Checker::new(true, None);
        checker.sift(&mut all);
        assert_eq!((all[0].chunks.len(), checker.take_news(), checker.summary()), (1, None, None));
    }

    #[test]
    fn what_is_out_of_order_is_left_out_across_frames_and_parts_are_not() {
        let of = |name: &str| series(&[("__name__", name)], vec![]);
        let mut checker = Checker::new(false, None);
        let mut kept = Vec::new();
        for frame in [vec!["b", "d", "c"], vec!["d", "a", "e"]] {
            let mut frame: Vec<Series> = frame.into_iter().map(of).collect();
            checker.sort_out(&mut frame);
            kept.extend(frame.iter().map(|one| labels::from_wire(&one.labels).unwrap().to_string()));
        }
        let expected = ["b", "d", "d", "e"].map(|name| Labels::from_pairs([("__name__", name)]).to_string());
        assert_eq!(kept, expected);
        assert_eq!(checker.take_news().unwrap(), "series c is out of order: it came after d; it is left out");
    }
}
