//! The labels of a block's series as they are answered, written as fields of the wire: external labels laid over, replica labels taken off.
//!
//! Labels come again and again, so their fields are kept by the numbers of their symbols. With the labels goes their bound: everything that the block still has
//! sorts at or above it (see `parallax_storeapi::Resorter`, whose rule it is).

use std::ops::Range;
use std::sync::Arc;

use parallax_model::{Labels, METRIC_NAME};
use parallax_storeapi::encoded::write_label;
use parallax_tsdb::TsdbError;
use parallax_tsdb::index_header::IndexHeader;

/// Fields kept at a time, by one block of one call: 24 bytes each, and their text.
const MAX_KEPT_FIELDS: usize = 8192;
const MIN_KEPT_FIELDS: usize = 64;
/// When so much text is kept it begins anew.
const MAX_TEXT_BYTES: usize = 512 << 10;
/// How many different labels a series has, about.
const TYPICAL_LABELS: usize = 8;

/// Writes labels of one block for one call.
pub struct LabelFields {
    header: Arc<IndexHeader>,
    /// The external labels that stay: sorted, their names and fields.
    added: Vec<(String, Vec<u8>)>,
    /// Labels that series may have themselves, and are answered without.
    removed: Vec<String>,
    kept: Vec<Kept>,
    text: Vec<u8>,
}

/// Where the field of a label lies in the text; nothing is kept where it has no bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    name: u32,
    value: u32,
    start: u32,
    size_bytes: u32,
    /// How many of the added labels sort before it.
    before: u32,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Stays,
    /// By an added label of the same name.
    Replaced,
    Removed,
}

/// Where labels, and their bound, were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub labels: Range<usize>,
    /// `None` if nothing is known of what may still come.
    pub bound: Option<Range<usize>>,
}

impl LabelFields {
    /// For about so many series. `external` overrides labels of the same name; `without` is removed after that, from either.
    pub fn new(header: Arc<IndexHeader>, external: &Labels, without: &[String], series: usize) -> Self {
        let has_own = |name: &String| header.postings_table().value_count(name) > 0;
        let field = |(name, value): (&str, &str)| {
            let mut field = Vec::new();
            write_label(name.as_bytes(), value.as_bytes(), &mut field);
            (name.to_owned(), field)
        };
        let removed = if without.iter().any(has_own) { without.to_vec() } else { Vec::new() };
        let added = external.without(without).iter().map(field).collect();
        let slots = series.saturating_mul(TYPICAL_LABELS).clamp(MIN_KEPT_FIELDS, MAX_KEPT_FIELDS);
        let kept = vec![Kept::default(); slots.next_power_of_two()];
        Self { header, added, removed, kept, text: Vec::new() }
    }

    /// Appends what a series with these `labels` is answered with.
    ///
    /// # Errors
    /// If a symbol does not exist.
    pub fn write(&mut self, labels: &[(u32, u32)], output: &mut Vec<u8>) -> Result<Written, TsdbError> {
        let start = output.len();
        let (mut next, mut last_own, mut cut) = (0, start, None);
        for (name, value) in labels {
            let field = self.field(*name, *value)?;
            if field.fate == Fate::Removed {
                continue;
            }
            next = self.add_until(field.before, next, output);
            if field.fate == Fate::Replaced {
                self.added.get(next).into_iter().for_each(|(_, added)| output.extend(added));
                next += 1;
                // Values that only differ here may be followed by anything.
                cut = cut.or(Some(output.len()));
            } else {
                output.extend_from_slice(self.text_of(field));
            }
            last_own = output.len();
        }
        let rest = self.added.get(next..).unwrap_or_default();
        rest.iter().for_each(|(_, added)| output.extend(added));
        let labels_range = start..output.len();
        let bound = if self.removed.is_empty() {
            // A longer series may follow, whose next label sorts before what was added behind this one's.
            let end = if rest.is_empty() { output.len() } else { last_own };
            Some(start..cut.unwrap_or(end))
        } else {
            self.write_bound_of_metric(labels, output)?
        };
        Ok(Written { labels: labels_range, bound })
    }

    /// Appends the labels as they are in the block, all of them.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_own(&mut self, labels: &[(u32, u32)], output: &mut Vec<u8>) -> Result<(), TsdbError> {
        for (name, value) in labels {
            let field = self.field(*name, *value)?;
            output.extend_from_slice(self.text_of(field));
        }
        Ok(())
    }

    /// Without the removed label anything may follow within the metric, so the bound ends with the metric's name.
    fn write_bound_of_metric(
        &mut self,
        labels: &[(u32, u32)],
        output: &mut Vec<u8>,
    ) -> Result<Option<Range<usize>>, TsdbError> {
        let is_name = |symbol: u32| Ok::<_, TsdbError>(self.header.symbols().lookup(symbol)? == METRIC_NAME);
        let mut metric = None;
        for (index, (name, _)) in labels.iter().enumerate() {
            if is_name(*name)? {
                metric = Some(index);
                break;
            }
        }
        let Some(metric) = metric else { return Ok(None) };
        if metric > 0 && self.removed.iter().any(|removed| removed.as_str() <= METRIC_NAME) {
            return Ok(None);
        }
        let start = output.len();
        let mut next = 0;
        for (name, value) in labels.get(..=metric).unwrap_or_default() {
            let field = self.field(*name, *value)?;
            next = self.add_until(field.before, next, output);
            let replacing = self.added.get(next).filter(|(added, _)| is_field_of(self.text_of(field), added));
            if let Some((_, added)) = replacing {
                output.extend(added);
                break;
            }
            output.extend_from_slice(self.text_of(field));
        }
        Ok(Some(start..output.len()))
    }

    /// Appends the added labels from the one of number `next` on that sort before a label; gives the number of the next one.
    fn add_until(&self, before: u32, next: usize, output: &mut Vec<u8>) -> usize {
        let before = before as usize;
        let added = self.added.get(next..before).unwrap_or_default();
        added.iter().for_each(|(_, field)| output.extend_from_slice(field));
        next.max(before)
    }

    fn text_of(&self, kept: Kept) -> &[u8] {
        let start = kept.start as usize;
        self.text.get(start..start + kept.size_bytes as usize).unwrap_or_default()
    }

    fn field(&mut self, name: u32, value: u32) -> Result<Kept, TsdbError> {
        // Values of one name are mostly neighbours.
        let slot = value.wrapping_add(name.wrapping_mul(0x9e37_79b1)) as usize & (self.kept.len() - 1);
        match self.kept.get(slot) {
            Some(kept) if kept.size_bytes > 0 && (kept.name, kept.value) == (name, value) => Ok(*kept),
            _ => self.keep(slot, name, value),
        }
    }

    fn keep(&mut self, slot: usize, name: u32, value: u32) -> Result<Kept, TsdbError> {
        if self.text.len() > MAX_TEXT_BYTES {
            self.text.clear();
            self.kept.fill(Kept::default());
        }
        let symbols = self.header.symbols();
        let (name_text, value_text) = (symbols.lookup(name)?, symbols.lookup(value)?);
        let start = self.text.len();
        write_label(name_text.as_bytes(), value_text.as_bytes(), &mut self.text);
        let before = self.added.partition_point(|(added, _)| added.as_str() < name_text);
        let fate = if self.removed.iter().any(|removed| removed == name_text) {
            Fate::Removed
        } else if self.added.get(before).is_some_and(|(added, _)| added == name_text) {
            Fate::Replaced
        } else {
            Fate::Stays
        };
        // Both are bounded by the text that is kept, and that by what one label takes.
        let number = |size: usize| u32::try_from(size).unwrap_or(0);
        let kept = Kept {
            name,
            value,
            start: number(start),
            size_bytes: number(self.text.len() - start),
            before: number(before),
            fate,
        };
        if let Some(place) = self.kept.get_mut(slot) {
            *place = kept;
        }
        Ok(kept)
    }
}

fn is_field_of(field: &[u8], name: &str) -> bool {
    parallax_storeapi::encoded::label_texts(field).any(|(found, _)| found == name.as_bytes())
}
