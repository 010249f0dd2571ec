//! `and`, `or`, `unless`: which samples stay, by what stands on the other side at the same step.

use std::collections::HashMap;

use parallax_model::Labels;

use super::Bitmap;
use super::binary::Signature;
use super::map::merge_rows;
use super::row::Row;
use crate::ast::{BinaryOp, VectorMatching};
use crate::engine::QueryError;

/// Evaluates a set operator; other operators give nothing.
///
/// # Errors
/// If `or` brings two series with equal labels together.
pub(crate) fn set_operation(
    op: BinaryOp,
    matching: &VectorMatching,
    mut left: Vec<Row>,
    mut right: Vec<Row>,
) -> Result<Vec<Row>, QueryError> {
    let signature = Signature::new(matching);
    match op {
        BinaryOp::And => {
            let there = occupied_by_signature(&signature, &right);
            left.retain_mut(|row| match there.get(&signature.of(&row.labels)) {
                Some(steps) => {
                    row.keep(steps);
                    true
                }
                None => false,
            });
            Ok(left)
        }
        BinaryOp::Unless => {
            remove_occupied(&signature, &mut left, &right);
            Ok(left)
        }
        BinaryOp::Or => {
            remove_occupied(&signature, &mut right, &left);
            left.extend(right.into_iter().filter(|row| !row.is_empty()));
            merge_rows(left)
        }
        _ => Ok(Vec::new()),
    }
}

fn remove_occupied(signature: &Signature, rows: &mut [Row], by: &[Row]) {
    let there = occupied_by_signature(signature, by);
    for row in rows {
        if let Some(steps) = there.get(&signature.of(&row.labels)) {
            row.remove(steps);
        }
    }
}

fn occupied_by_signature(signature: &Signature, rows: &[Row]) -> HashMap<Labels, Bitmap> {
    let mut occupied: HashMap<Labels, Bitmap> = HashMap::new();
    for row in rows {
        let steps = row.occupied();
        occupied
            .entry(signature.of(&row.labels))
            .and_modify(|known| known.union_with(&steps))
            .or_insert(steps);
    }
    occupied
}
