//! What is fuzzed, and what has to hold. The fuzz targets call it, and so does a bounded test among the ordinary ones
//! (`crates/promql/tests/fuzz_smoke.rs`).

use parallax_promql::engine::{Engine, EngineOptions, QueryRange};
use parallax_promql::parse::{ParserOptions, parse as parse_query, parse_selector};
use parallax_promql::script::Script;
use parallax_promql::series_notation::parse_series;

/// Longer scripts only take longer.
const MAX_SCRIPT_BYTES: usize = 4096;
/// Keeps one script's evaluation short.
const MAX_SAMPLES: usize = 20_000;

fn all_syntax() -> ParserOptions {
    ParserOptions { later_syntax: true, ..ParserOptions::all_features() }
}

/// Any text is refused or parsed, planned and printed without a panic; what is printed means the same.
pub fn parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = parse_selector(&text);
    let _ = parse_series(&text);
    let _ = parse_query(&text, &ParserOptions::default());
    let Ok(expr) = parse_query(&text, &all_syntax()) else { return };
    for range in [QueryRange::instant(0), QueryRange { start_ms: -7, end_ms: 60_000, step_ms: 15_000 }] {
        let _ = Engine::default().explain(&expr, range);
    }
    let printed = expr.to_string();
    // Prometheus prints this base with a sign, too, and then reads the sign as one of the whole power.
    if printed.contains("+Inf ^") {
        return;
    }
    match parse_query(&printed, &all_syntax()) {
        Ok(again) => assert_eq!(
            without_milliseconds(&again.to_string()),
            without_milliseconds(&printed),
            "printed twice, from {text:?}"
        ),
        // Quotes and long forms can make it longer than what is read.
        Err(error) => assert!(printed.len() > text.len(), "{text:?} is printed as {printed:?}: {error}"),
    }
}

/// Seconds are doubles, as in Prometheus: of a duration of years, reading may lose a millisecond.
fn without_milliseconds(text: &str) -> String {
    let Some((before, last)) = text.rsplit_once("ms") else { return text.to_owned() };
    let cut: String =
        before.split("ms").map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit())).collect();
    cut + last
}

/// Any text is refused as a script or run without a panic.
pub fn script(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if text.len() > MAX_SCRIPT_BYTES {
        return;
    }
    let Ok(script) = Script::read(&text) else { return };
    let options = EngineOptions { max_samples: MAX_SAMPLES, ..EngineOptions::default() };
    let report = script.run(&Engine::new(options), &all_syntax());
    // A load may fail, too. It has no query; a damaged eval may have none, either.
    let with_query = report.failures.iter().filter(|failure| !failure.query.is_empty()).count();
    let held_or_failed = report.passed + with_query..=report.passed + report.failures.len();
    assert!(held_or_failed.contains(&script.eval_count()), "each eval holds or fails: {held_or_failed:?}");
}
