//! Properties of the parser: no text makes it panic, and what is printed parses to the same tree.

use parallax_promql::parse::{ParserOptions, parse, parse_selector};
use parallax_promql::script::Script;
use parallax_promql::series_notation::parse_series;
use proptest::prelude::*;

fn every_option() -> ParserOptions {
    ParserOptions { later_syntax: true, ..ParserOptions::all_features() }
}

const TOKENS: [&str; 78] = [
    "foo",
    "a:b",
    "sum",
    "topk",
    "by",
    "without",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    "5m",
    "1h30m",
    "1",
    "0",
    "2.5",
    "0x1f",
    "inf",
    "nan",
    "offset",
    "@",
    "start()",
    "end()",
    "step()",
    "range()",
    "min",
    "max",
    "+",
    "-",
    "*",
    "/",
    "^",
    "%",
    "==",
    "!=",
    "<=",
    ">=",
    "<",
    ">",
    "</",
    ">/",
    "and",
    "or",
    "unless",
    "atan2",
    "bool",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "fill",
    "(a)",
    "{a=\"b\"}",
    "[5m]",
    "[5m:1m]",
    "[5m:]",
    "rate",
    "info",
    "\"x\"",
    "`r`",
    "'y'",
    ",",
    ":",
    "=",
    "=~",
    "!~",
    "anchored",
    "smoothed",
    "# c\n",
    "\n",
    "time()",
    "label_replace",
    "rate(foo[5m])",
    "{\"a.b\"}",
    "é",
    "\\",
    "\"",
];

/// Expressions that parse, more often than not.
fn expression() -> impl Strategy<Value = String> {
    let duration = prop_oneof![
        Just("5m".to_owned()),
        Just("90".to_owned()),
        Just("step()".to_owned()),
        Just("2 * step() + 1s".to_owned()),
        Just("min(1m, (step() + 5s) / 2)".to_owned()),
        Just("1w2d3ms".to_owned()),
    ];
    let modifiers = prop_oneof![
        4 => Just(String::new()),
        1 => duration.clone().prop_map(|duration| format!(" offset {duration}")),
        1 => Just(" offset -(step() + 1m)".to_owned()),
        1 => Just(" @ start() offset -1h".to_owned()),
        1 => (-1e6..1e6).prop_map(|time: f64| format!(" @ {time}")),
        1 => Just(" anchored".to_owned()),
    ];
    let name = prop_oneof!["[a-z:_][a-z0-9:_]{0,5}x", Just("by".to_owned()), Just("sum".to_owned())];
    let matchers = prop_oneof![
        Just(String::new()),
        Just("{a=\"b\",c!~\"d|e\"}".to_owned()),
        "[^\"\\\\\n\u{fffd}]{0,8}".prop_map(|value| format!("{{\"l.{value}\"=\"{value}\"}}")),
    ];
    let vector = (name, matchers, modifiers.clone())
        .prop_map(|(name, matchers, modifiers)| format!("{name}{matchers}{modifiers}"));
    let number = prop_oneof![any::<f64>().prop_map(|value| format!("{value}")), Just("1e3".to_owned())];
    let leaf = prop_oneof![3 => vector, 1 => number, 1 => Just("time()".to_owned())];
    let operator = prop::sample::select(vec![
        "+",
        "-",
        "*",
        "/",
        "%",
        "^",
        "atan2",
        "== bool",
        "> bool",
        "and",
        "or",
        "unless",
        "+ on(a)",
        "* ignoring(a, \"b.c\") group_left(inf, \"nan\", \"without\")",
        "/ on() group_right fill(1)",
    ]);
    let clause = prop::sample::select(vec!["", " by (a, \"b c\")", " without ()", " by (offset)"]);
    leaf.prop_recursive(5, 40, 3, move |inner| {
        prop_oneof![
            (inner.clone(), operator.clone(), inner.clone())
                .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            inner.clone().prop_map(|inner| format!("-{inner}")),
            inner.clone().prop_map(|inner| format!("abs({inner})")),
            (inner.clone(), clause.clone()).prop_map(|(inner, clause)| format!("sum{clause} ({inner})")),
            (inner.clone(), clause.clone()).prop_map(|(inner, clause)| format!("topk(2, {inner}){clause}")),
            (inner, duration.clone(), modifiers.clone()).prop_map(|(inner, range, modifiers)| format!(
                "max_over_time(({inner})[{range}:]{modifiers})"
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_anything_panic(text in "\\PC{0,60}") {
        let _ = parse(&text, &every_option());
        let _ = parse(&text, &ParserOptions::default());
        let _ = parse_selector(&text);
        let _ = parse_series(&text);
        let _ = parse_series(&format!("m {text}"));
        let _ = parse_series(&format!("m {{{{{text}}}}}"));
        let _ = Script::read(&text);
    }

    #[test]
    fn no_bytes_make_anything_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = parse(&text, &every_option());
        let _ = parse_selector(&text);
        let _ = parse_series(&text);
        let _ = Script::read(&text);
    }

    #[test]
    fn no_tokens_make_anything_panic(
        tokens in prop::collection::vec(prop::sample::select(TOKENS.to_vec()), 0..14),
        blanks in any::<bool>(),
    ) {
        let text = tokens.join(if blanks { " " } else { "" });
        let _ = parse(&text, &every_option());
        if let Ok(expr) = parse(&text, &ParserOptions::all_features()) {
            let printed = expr.to_string();
            // Prometheus prints this base with a sign, too, and then reads the sign as one of the whole power.
            if printed.contains("+Inf ^") {
                return Ok(());
            }
            let again = parse(&printed, &ParserOptions::all_features());
            prop_assert_eq!(again.map(|expr| expr.to_string()), Ok(printed));
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same_tree(text in expression()) {
        let Ok(expr) = parse(&text, &every_option()) else { return Ok(()) };
        let printed = expr.to_string();
        let again = parse(&printed, &every_option());
        prop_assert!(again.is_ok(), "{} printed as {}: {:?}", text, printed, again);
        let again = again.unwrap();
        prop_assert_eq!(without_places(&expr), without_places(&again), "{} printed as {}", text, &printed);
        prop_assert_eq!(again.to_string(), printed);
    }

    #[test]
    fn damaged_scripts_do_not_panic(at in 0usize..4000, replacement in "\\PC{0,4}") {
        let text = include_str!("scripts/histograms.test");
        let mut at = at % text.len();
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let damaged = format!("{}{replacement}{}", &text[..at], text[at..].get(1..).unwrap_or(""));
        let _ = Script::read(&damaged);
    }
}

#[test]
fn durations_are_printed_with_the_parentheses_that_their_meaning_needs() {
    for (text, printed) in [
        ("x offset (2m) - max(step(), 3s)", "x offset (2m) - max(step(), 3s)"),
        ("x offset (2m) - 1", "x offset (2m) - 1"),
        ("x offset ((2m)) * 3 + 1m", "x offset (2m) * 3 + 1m"),
        ("x offset - -2m + 3m", "x offset (2m) + 3m"),
        ("x offset -+step() + 3m", "x offset (-step()) + 3m"),
        ("x offset (step()) + 3m", "x offset (step()) + 3m"),
        ("x offset (2m - 1)", "x offset (2m - 1)"),
        ("x offset -2m", "x offset -2m"),
        ("x offset 2m - 1", "x offset 2m - 1"),
        ("rate(x[(-2) ^ 2])", "rate(x[(-2) ^ 2])"),
        ("rate(x[2 ^ -2])", "rate(x[2 ^ -2])"),
        ("rate(x[2m + step()])", "rate(x[2m + step()])"),
    ] {
        let expr = parse(text, &every_option()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expr.to_string(), printed, "{text}");
        let again = parse(printed, &every_option()).unwrap_or_else(|error| panic!("{printed}: {error}"));
        assert_eq!(again.to_string(), printed, "{text}");
    }
}

/// The tree as debug text, its places blanked out: every `PosRange { … }`.
fn without_places(expr: &parallax_promql::ast::Expr) -> String {
    let text = format!("{expr:?}");
    let mut pieces = text.split("PosRange {");
    let mut blanked = pieces.next().unwrap_or("").to_owned();
    for piece in pieces {
        blanked.push_str(piece.split_once('}').map_or("", |(_, rest)| rest));
    }
    blanked
}
