//! `and`, `or`, `unless`: which samples stay, by what stands on the other side at the same step.

use std::collections::HashMap;

use parallax_model::Labels;

use super::binary::Signature;
use super::map::merge_rows;
use super::row::Row;
use super::{Bitmap, Context};
use crate::ast::{BinaryOp, VectorMatching};
use crate::engine::QueryError;

/// Evaluates a set operator; other operators give nothing.
///
/// # Errors
/// If `or` brings two series with equal labels together, or the query was interrupted.
pub(crate) fn set_operation(
    op: BinaryOp,
    matching: &VectorMatching,
    mut left: Vec<Row>,
    mut right: Vec<Row>,
    context: &Context<'_>,
) -> Result<Vec<Row>, QueryError> {
    let signature = Signature::new(matching);
    match op {
        BinaryOp::And => {
            let there = occupied_by_signature(&signature, &right, context)?;
            let mut kept = Vec::new();
            for mut row in left {
                context.spend(row.steps())?;
                if let Some(steps) = there.get(&signature.of(&row.labels)) {
                    row.keep(steps);
                    kept.push(row);
                }
            }
            Ok(kept)
        }
        BinaryOp::Unless => {
            remove_occupied(&signature, &mut left, &right, context)?;
            Ok(left)
        }
        BinaryOp::Or => {
            remove_occupied(&signature, &mut right, &left, context)?;
            left.extend(right.into_iter().filter(|row| !row.is_empty()));
            merge_rows(left, context)
        }
        _ => Ok(Vec::new()),
    }
}

fn remove_occupied(
    signature: &Signature,
    rows: &mut [Row],
    by: &[Row],
    context: &Context<'_>,
) -> Result<(), QueryError> {
    let there = occupied_by_signature(signature, by, context)?;
    for row in rows {
        context.spend(row.steps())?;
        if let Some(steps) = there.get(&signature.of(&row.labels)) {
            row.remove(steps);
        }
    }
    Ok(())
}

fn occupied_by_signature(
    signature: &Signature,
    rows: &[Row],
    context: &Context<'_>,
) -> Result<HashMap<Labels, Bitmap>, QueryError> {
    let mut occupied: HashMap<Labels, Bitmap> = HashMap::new();
    for row in rows {
        context.spend(row.steps())?;
        let steps = row.occupied();
        occupied
            .entry(signature.of(&row.labels))
            .and_modify(|known| known.union_with(&steps))
            .or_insert(steps);
    }
    Ok(occupied)
}
