//! What a request asks: parameters of the URL and of a form, and reading their values as Prometheus does.

use std::time::Duration;

use axum::extract::{Form, FromRequest, Query as UrlQuery, Request};
use http::header;
use parallax_model::{Matcher, TimeRange, parse_duration_ms};
use parallax_promql::parse::parse_selector;
use parallax_storeapi::Caller;

use super::respond::{ApiError, ErrorKind};

/// The range that stands for all time, as Prometheus' API has it: what Go's `time.Time` can hold.
pub(super) const ALL_TIME: TimeRange = TimeRange::new(-9_223_309_901_257_974_000, 9_223_309_901_257_974_999);

/// Names and values in order; those of a form come before those of the URL. And who asks.
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    pub(super) caller: Caller,
}

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bad = |error: &dyn std::fmt::Display| {
            ApiError::new(ErrorKind::BadData, format!("error parsing form values: {error}"))
        };
        // The guard has put it there; without one, nobody may ask.
        let caller = request.extensions().get::<Caller>().cloned();
        let caller =
            caller.ok_or_else(|| ApiError::new(ErrorKind::Internal, "the request passed no guard"))?;
        let UrlQuery(in_url) = UrlQuery::<Vec<(String, String)>>::try_from_uri(request.uri())
            .map_err(|error| bad(&error.body_text()))?;
        let is_form = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
        let mut pairs = Vec::new();
        if request.method() == http::Method::POST && is_form {
            let Form(in_form) = Form::<Vec<(String, String)>>::from_request(request, state)
                .await
                .map_err(|error| bad(&error.body_text()))?;
            pairs = in_form;
        }
        pairs.extend(in_url);
        Ok(Self { pairs, caller })
    }
}

impl Params {
    /// The first value of `name`, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(candidate, _)| candidate == name)?;
        (!value.is_empty()).then_some(value)
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn bool(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => {
                Err(ApiError::bad_parameter(name, format!("cannot parse {other:?} to a valid bool")))
            }
        }
    }

    /// A point in time in milliseconds, if there is one.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse_time_ms(text).map(Some).map_err(|reason| {
            ApiError::bad_parameter(name, format!("Invalid time value for '{name}': {reason}"))
        })
    }

    /// A point in time that must be there.
    pub(super) fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time_ms(self.get(name).unwrap_or_default())
            .map_err(|reason| ApiError::bad_parameter(name, reason))
    }

    /// A number of seconds or a Prometheus duration, in milliseconds, if there is one.
    pub(super) fn duration_ms(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse_duration(text).map(Some).map_err(|reason| ApiError::bad_parameter(name, reason))
    }

    /// A duration of more than nothing.
    pub(super) fn positive_duration(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        Ok(self
            .duration_ms(name)?
            .and_then(|millis| u64::try_from(millis).ok())
            .filter(|millis| *millis > 0)
            .map(Duration::from_millis))
    }

    /// How many elements an answer may have; 0 for no limit.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.get("limit") else { return Ok(0) };
        match text.parse::<i64>() {
            Ok(limit) => usize::try_from(limit)
                .map_err(|_| ApiError::bad_parameter("limit", "limit must be non-negative")),
            Err(_) => {
                Err(ApiError::bad_parameter("limit", format!("cannot parse {text:?} to a valid limit")))
            }
        }
    }

    /// The selectors of all parameters called `name`.
    pub(super) fn selectors(&self, name: &str) -> Result<Vec<Vec<Matcher>>, ApiError> {
        self.all(name)
            .map(|text| parse_selector(text).map_err(|error| ApiError::bad_parameter(name, error)))
            .collect()
    }
}

fn parse_seconds(text: &str) -> Option<f64> {
    // Rust reads "infinity" and "nan" as Go does; neither is a time.
    text.parse::<f64>().ok().filter(|seconds| seconds.is_finite())
}

/// Seconds since the epoch, or RFC 3339, as milliseconds.
fn parse_time_ms(text: &str) -> Result<i64, String> {
    let bad = || format!("cannot parse {text:?} to a valid timestamp");
    if let Some(seconds) = parse_seconds(text) {
        let (whole, fraction) = (seconds.trunc(), (seconds.fract() * 1000.0).round());
        let millis = whole * 1000.0 + fraction;
        // Beyond this a float no longer tells milliseconds, and an i64 ends soon.
        return if millis.abs() < 9.2e18 { Ok(millis as i64) } else { Err(bad()) };
    }
    // What Prometheus prints for the ends of its time.
    match text {
        "-292273086-05-16T16:47:06Z" => return Ok(ALL_TIME.min_ms),
        "+292277025-08-18T07:12:54.999999999Z" | "292277025-08-18T07:12:54.999999999Z" => {
            return Ok(ALL_TIME.max_ms);
        }
        _ => {}
    }
    text.parse::<jiff::Timestamp>().map(|time| time.as_millisecond()).map_err(|_| bad())
}

fn parse_duration(text: &str) -> Result<i64, String> {
    if let Some(seconds) = parse_seconds(text) {
        // Go's durations are nanoseconds in an i64.
        return if (seconds * 1e9).abs() < 9.223_372_036_854_775e18 {
            Ok((seconds * 1000.0) as i64)
        } else {
            Err(format!("cannot parse {text:?} to a valid duration. It overflows int64"))
        };
    }
    parse_duration_ms(text).ok_or_else(|| format!("cannot parse {text:?} to a valid duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        assert_eq!(parse_time_ms("1782870000"), Ok(1_782_870_000_000));
        assert_eq!(parse_time_ms("1782870000.781"), Ok(1_782_870_000_781));
        assert_eq!(parse_time_ms("1782870000.1239"), Ok(1_782_870_000_124));
        assert_eq!(parse_time_ms("-1.5"), Ok(-1_500));
        assert_eq!(parse_time_ms("2026-07-01T00:00:00Z"), Ok(1_782_864_000_000));
        assert_eq!(parse_time_ms("2026-07-01T02:00:00.5+02:00"), Ok(1_782_864_000_500));
        for bad in ["", "x", "NaN", "1e300", "2026-07-01"] {
            assert_eq!(parse_time_ms(bad), Err(format!("cannot parse {bad:?} to a valid timestamp")));
        }
    }

    #[test]
    fn durations_are_seconds_or_units() {
        assert_eq!(parse_duration("30"), Ok(30_000));
        assert_eq!(parse_duration("0.25"), Ok(250));
        assert_eq!(parse_duration("1h30m"), Ok(5_400_000));
        assert_eq!(parse_duration("-5"), Ok(-5_000));
        assert!(parse_duration("1e10").unwrap_err().contains("overflows int64"));
        assert!(parse_duration("soon").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd_for_a_time_or_a_duration(text in ".{0,40}", digits in "-?[0-9.e+]{0,20}") {
            for text in [text, digits] {
                let _ = parse_time_ms(&text);
                let _ = parse_duration(&text);
                let _ = super::super::names::unescape_label_name(&format!("U__{text}"));
            }
        }
    }
}
