//! Durations as written, turned into milliseconds. Experimental arithmetic is done in seconds, like Prometheus.

use crate::ast::{DurationExpr, DurationKind, DurationOp};
use crate::engine::{QueryError, QueryRange};

/// Milliseconds of an offset: any sign.
///
/// # Errors
/// If arithmetic divides by zero or leaves the range of milliseconds.
pub(crate) fn offset_ms(duration: &DurationExpr, range: QueryRange) -> Result<i64, QueryError> {
    if let DurationKind::Literal(millis) = duration.kind {
        return Ok(millis);
    }
    let seconds = seconds(duration, range)?;
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
    let millis = offset_ms(duration, range)?;
    let literal = matches!(duration.kind, DurationKind::Literal(_));
    if !literal && seconds(duration, range)? <= 0.0 {
        return Err(failed(duration, "duration must be greater than 0"));
    }
    Ok(millis)
}

fn failed(duration: &DurationExpr, what: &str) -> QueryError {
    QueryError::Execution(format!("{}:{}: {what}", duration.pos.start, duration.pos.end))
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
        DurationKind::Min(left, right) => seconds(left, range)?.min(seconds(right, range)?),
        DurationKind::Max(left, right) => seconds(left, range)?.max(seconds(right, range)?),
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
