//! Writing one encoded series from pieces of another one's bytes.
//!
//! Labels come one after the other, sorted; the labels that are added are put between them, as they were encoded once. Nothing is allocated per series.

use std::cmp::Ordering;

use prost::Message as _;

use crate::codec::write::{
    bytes_length, delimited as delimited_length, number_length, write_head, write_label, write_number,
};
use crate::labels;
use crate::proto::thanos::{Label, Series};
use crate::wire::{delimited, varint};

/// The labels of a series that is being written, and where its bound is (see [`crate::Resorter`]).
#[derive(Debug)]
pub struct Splice {
    /// Sorted by name: the name, and the whole field.
    added: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many of them were written.
    written: usize,
    labels: Vec<u8>,
    /// The end of the last label that was not added.
    last_own: usize,
}

/// A raw chunk whose data lies elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChunkBytes<'a> {
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    /// As the StoreAPI counts encodings.
    pub encoding: i32,
    pub hash: u64,
    pub data: &'a [u8],
}

impl Splice {
    /// `added`: sorted by name; no series may have a label of such a name.
    pub fn new(added: &[Label]) -> Self {
        let added = added.iter().map(|label| {
            let mut field = Vec::new();
            write_label(&label.name, &label.value, &mut field);
            (label.name.to_vec(), field)
        });
        Self { added: added.collect(), written: 0, labels: Vec::new(), last_own: 0 }
    }

    /// Begins the next series.
    pub fn begin(&mut self) {
        self.written = 0;
        self.labels.clear();
        self.last_own = 0;
    }

    /// The next label of the series, whose name sorts after those before it.
    pub fn label(&mut self, name: &[u8], value: &[u8]) {
        self.add_below(name);
        write_label(name, value, &mut self.labels);
        self.last_own = self.labels.len();
    }

    /// As [`Self::label`], of a label whose field is encoded as it would be written.
    pub fn label_field(&mut self, name: &[u8], field: &[u8]) {
        self.add_below(name);
        self.labels.extend_from_slice(field);
        self.last_own = self.labels.len();
    }

    fn add_below(&mut self, name: &[u8]) {
        while let Some((_, field)) = self.added.get(self.written).filter(|(added, _)| added.as_slice() < name)
        {
            self.labels.extend_from_slice(field);
            self.written += 1;
        }
    }

    /// Ends the labels: all of them, and how much of them bounds everything that is still to come from a source in order.
    pub fn end(&mut self) -> (&[u8], usize) {
        let rest = self.added.get(self.written..).unwrap_or_default();
        let bound = if rest.is_empty() { self.labels.len() } else { self.last_own };
        rest.iter().for_each(|(_, field)| self.labels.extend_from_slice(field));
        self.written = self.added.len();
        (&self.labels, bound)
    }
}

impl ChunkBytes<'_> {
    /// Bytes of the chunk as a field of a series.
    pub(super) fn field_length(&self) -> usize {
        1 + delimited_length(self.length())
    }

    fn length(&self) -> usize {
        self.lengths().1
    }

    /// Of the chunk within the field of its kind, and of all that is in the field of the series.
    pub(super) fn lengths(&self) -> (usize, usize) {
        let raw_length = self.raw_length();
        let times = number_length(self.min_time_ms as u64) + number_length(self.max_time_ms as u64);
        (raw_length, times + 1 + delimited_length(raw_length))
    }

    fn raw_length(&self) -> usize {
        number_length(self.encoding as i64 as u64) + bytes_length(self.data) + number_length(self.hash)
    }

    /// All of the field that comes before the data.
    pub(super) fn write_before(&self, output: &mut Vec<u8>) {
        write_head(2, self.length(), output);
        write_number(1, self.min_time_ms as u64, output);
        write_number(2, self.max_time_ms as u64, output);
        write_head(3, self.raw_length(), output);
        write_number(1, self.encoding as i64 as u64, output);
        if !self.data.is_empty() {
            write_head(2, self.data.len(), output);
        }
    }

    /// What comes after it.
    pub(super) fn write_after(&self, output: &mut Vec<u8>) {
        write_number(3, self.hash, output);
    }
}

/// The order of two series by their labels as they are written here; the same as that of [`crate::labels::compare`].
pub fn compare(mut left: &[u8], mut right: &[u8]) -> Ordering {
    // Of several sources of the same series nearly all are equal.
    if left == right {
        return Ordering::Equal;
    }
    loop {
        match (next_label(left), next_label(right)) {
            (Some((a, after_a)), Some((b, after_b))) => {
                if a != b {
                    let (a, b) = (name_and_value(a), name_and_value(b));
                    let order = a.cmp(&b);
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                (left, right) = (after_a, after_b);
            }
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

/// The next label's message, and what follows it.
fn next_label(labels: &[u8]) -> Option<(&[u8], &[u8])> {
    delimited(labels.get(1..)?)
}

/// Either may be missing, for what is empty is not written.
fn name_and_value(mut label: &[u8]) -> (&[u8], &[u8]) {
    let (mut name, mut value) = (&[][..], &[][..]);
    while let Some((key, rest)) = varint(label)
        && let Some((text, rest)) = delimited(rest)
    {
        *(if key == 1 << 3 | 2 { &mut name } else { &mut value }) = text;
        label = rest;
    }
    (name, value)
}

/// The labels of a series, whose fields these are: names and values.
pub fn label_texts(mut fields: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    std::iter::from_fn(move || {
        let (label, rest) = next_label(fields)?;
        fields = rest;
        Some(name_and_value(label))
    })
}

/// For messages.
pub fn display(labels: &[u8]) -> String {
    Series::decode(labels).map_or_else(|_| String::new(), |series| labels::display(&series.labels))
}
