//! Labels on the wire: conversion to and from `model::Labels`, and work on the wire form itself.
//!
//! Wire labels are compared, removed and overlaid as bytes, so a series that is only passed on is never converted. All
//! functions expect labels sorted by name unless they say otherwise, as the protocol demands.

use std::cmp::Ordering;

use bytes::{Bytes, BytesMut};
use parallax_model::Labels;

use crate::Error;
use crate::proto::thanos::{Label, ZLabelSet};

/// The wire form; all text lies in one shared buffer.
pub fn to_wire(labels: &Labels) -> Vec<Label> {
    let mut text = BytesMut::with_capacity(labels.iter().map(|(name, value)| name.len() + value.len()).sum());
    labels
        .iter()
        .map(|(name, value)| {
            text.extend_from_slice(name.as_bytes());
            let name = text.split().freeze();
            text.extend_from_slice(value.as_bytes());
            Label { name, value: text.split().freeze() }
        })
        .collect()
}

/// From wire labels in any order; of two values for one name the later wins, empty values vanish.
///
/// # Errors
/// If a name or a value is not UTF-8.
pub fn from_wire(labels: &[Label]) -> Result<Labels, Error> {
    let pairs: Vec<(&str, &str)> = labels
        .iter()
        .map(|label| Ok((text(label, &label.name)?, text(label, &label.value)?)))
        .collect::<Result<_, Error>>()?;
    Ok(Labels::from_pairs(pairs))
}

/// Whether [`from_wire`] could read them.
///
/// # Errors
/// As [`from_wire`].
pub fn check_text(labels: &[Label]) -> Result<(), Error> {
    labels.iter().try_for_each(|label| text(label, &label.name).and(text(label, &label.value)).map(|_| ()))
}

fn text<'a>(label: &Label, bytes: &'a Bytes) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::LabelNotUtf8 { name: String::from_utf8_lossy(&label.name).into_owned() })
}

pub fn set_to_wire(labels: &Labels) -> ZLabelSet {
    ZLabelSet { labels: to_wire(labels) }
}

/// # Errors
/// As [`from_wire`].
pub fn set_from_wire(set: &ZLabelSet) -> Result<Labels, Error> {
    from_wire(&set.labels)
}

/// The order of series: by (name, value) pairs, then by length.
pub fn compare(left: &[Label], right: &[Label]) -> Ordering {
    for (a, b) in left.iter().zip(right) {
        let order = compare_text(&a.name, &b.name).then_with(|| compare_text(&a.value, &b.value));
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

/// Text of one source most often is the same bytes of memory.
#[inline]
fn compare_text(a: &Bytes, b: &Bytes) -> Ordering {
    if a.as_ptr() == b.as_ptr() && a.len() == b.len() { Ordering::Equal } else { a.cmp(b) }
}

/// The value of `name`, or an empty slice.
pub fn value_of<'a>(labels: &'a [Label], name: &str) -> &'a [u8] {
    labels.iter().find(|label| label.name == name.as_bytes()).map_or(&[], |label| &label.value)
}

/// Removes the labels called `names`; says whether there were any.
pub fn remove<S: AsRef<str>>(labels: &mut Vec<Label>, names: &[S]) -> bool {
    let before = labels.len();
    labels.retain(|label| !names.iter().any(|name| label.name == name.as_ref().as_bytes()));
    labels.len() != before
}

/// Lays `over` above `labels`: one of the same name is replaced. Both sorted, and so is the result.
pub fn overlay(mut labels: Vec<Label>, over: &[Label]) -> Vec<Label> {
    labels.reserve_exact(over.len());
    let mut from = 0;
    for label in over {
        let rest = labels.get(from..).unwrap_or_default();
        from += rest.iter().take_while(|own| own.name < label.name).count();
        match labels.get_mut(from) {
            Some(own) if own.name == label.name => *own = label.clone(),
            _ => labels.insert(from, label.clone()),
        }
        from += 1;
    }
    labels
}

/// As PromQL writes labels, for messages; bytes that are not UTF-8 are replaced.
pub fn display(labels: &[Label]) -> String {
    let pairs = labels
        .iter()
        .map(|label| (String::from_utf8_lossy(&label.name), String::from_utf8_lossy(&label.value)));
    Labels::from_pairs(pairs).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(pairs: &[(&str, &str)]) -> Vec<Label> {
        to_wire(&Labels::from_pairs(pairs.iter().copied()))
    }

    #[test]
    fn labels_survive_the_wire() {
        let labels = Labels::from_pairs([("__name__", "up"), ("é", "ü"), ("job", "x")]);
        assert_eq!(from_wire(&to_wire(&labels)).unwrap(), labels);
        let unsorted: Vec<Label> = to_wire(&labels).into_iter().rev().collect();
        assert_eq!(from_wire(&unsorted).unwrap(), labels);
    }

    #[test]
    fn text_that_is_not_utf8_is_an_error_with_the_labels_name() {
        let bad = Label { name: "job".into(), value: Bytes::from_static(&[0xff]) };
        let error = from_wire(&[bad]).unwrap_err();
        assert_eq!(error.to_string(), "label \"job\" is not UTF-8");
    }

    #[test]
    fn wire_order_is_model_order() {
        let sets = [
            Labels::from_pairs([("a", "1")]),
            Labels::from_pairs([("a", "1"), ("b", "1")]),
            Labels::from_pairs([("a", "1"), ("c", "0")]),
            Labels::from_pairs([("a", "10")]),
            Labels::from_pairs([("b", "1")]),
            Labels::empty(),
        ];
        for left in &sets {
            for right in &sets {
                assert_eq!(compare(&to_wire(left), &to_wire(right)), left.cmp(right));
            }
        }
    }

    #[test]
    fn overlaid_labels_replace_and_keep_order() {
        let series = wire(&[("__name__", "up"), ("cluster", "mine"), ("job", "x")]);
        let external = wire(&[("cluster", "eu-1"), ("replica", "0")]);
        let expected = wire(&[("__name__", "up"), ("cluster", "eu-1"), ("job", "x"), ("replica", "0")]);
        assert_eq!(overlay(series.clone(), &external), expected);
        assert_eq!(overlay(series.clone(), &[]), series);
        assert_eq!(overlay(vec![], &external), external);
    }

    #[test]
    fn removal_says_whether_it_changed_anything() {
        let mut labels = wire(&[("a", "1"), ("replica", "0")]);
        assert!(remove(&mut labels, &["replica"]));
        assert!(!remove(&mut labels, &["replica"]));
        assert_eq!(labels, wire(&[("a", "1")]));
        assert_eq!(value_of(&labels, "a"), b"1");
        assert_eq!(value_of(&labels, "b"), b"");
    }
}
