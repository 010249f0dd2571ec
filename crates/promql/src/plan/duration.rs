//! Durations as written, turned into milliseconds. Experimental arithmetic is done in seconds, like Prometheus.

use crate::ast::{DurationExpr, DurationKind, DurationOp};
use crate::engine::{QueryError, QueryRange};
use crate::functions::math::{larger, smaller};

/// Milliseconds of an offset: any sign.
///
/// # Errors
/// [`QueryError::BadQuery`] if arithmetic divides by zero or leaves the range of milliseconds.
pub(crate) fn offset_ms(duration: &DurationExpr, range: QueryRange) -> Result<i64, QueryError> {
    match duration.kind {
        DurationKind::Literal(millis) => Ok(millis),
        _ => millis(duration, seconds(duration, range)?),
    }
}

/// What arithmetic gave, in milliseconds.
fn millis(duration: &DurationExpr, seconds: f64) -> Result<i64, QueryError> {
    let millis = seconds * 1000.0;
    if !millis.is_finite() || millis.abs() > i64::MAX as f64 {
        return Err(failed(duration, "duration is out of range"));
    }
    Ok(millis as i64)
}

/// Milliseconds of a range or a step: positive.
///
/// # Errors
/// As [`offset_ms`], or if arithmetic gives nothing positive.
pub(crate) fn positive_ms(duration: &DurationExpr, range: QueryRange) -> Result<i64, QueryError> {
    if let DurationKind::Literal(millis) = duration.kind {
        return Ok(millis);
    }
    let seconds = seconds(duration, range)?;
    if seconds <= 0.0 {
        return Err(failed(duration, "duration must be greater than 0"));
    }
    millis(duration, seconds)
}

fn failed(duration: &DurationExpr, what: &str) -> QueryError {
    let place = duration.place();
    QueryError::BadQuery(format!("{}:{}: {what}", place.start, place.end))
}

fn seconds(duration: &DurationExpr, range: QueryRange) -> Result<f64, QueryError> {
    Ok(match &duration.kind {
        DurationKind::Literal(millis) => *millis as f64 / 1000.0,
        DurationKind::Number(value) => *value,
        DurationKind::Step => range.step_ms as f64 / 1000.0,
        DurationKind::Range => range.end_ms.saturating_sub(range.start_ms) as f64 / 1000.0,
        DurationKind::Unary { negate, operand } => {
            let value = seconds(operand, range)?;
            if *negate { -value } else { value }
        }
        DurationKind::Paren(inner) => seconds(inner, range)?,
        DurationKind::Min(left, right) => smaller(seconds(left, range)?, seconds(right, range)?),
        DurationKind::Max(left, right) => larger(seconds(left, range)?, seconds(right, range)?),
        DurationKind::Binary { op, left, right } => {
            let (left, right) = (seconds(left, range)?, seconds(right, range)?);
            match op {
                DurationOp::Add => left + right,
                DurationOp::Sub => left - right,
                DurationOp::Mul => left * right,
                DurationOp::Div if right == 0.0 => return Err(failed(duration, "division by zero")),
                DurationOp::Div => left / right,
                DurationOp::Mod if right == 0.0 => return Err(failed(duration, "modulo by zero")),
                DurationOp::Mod => left % right,
                DurationOp::Pow => left.powf(right),
            }
        }
    })
}
