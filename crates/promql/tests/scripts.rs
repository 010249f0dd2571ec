//! Runs scripts: our own, and those that Prometheus publishes, where they are at hand.
//!
//! Prometheus' scripts are read from `promqltest` in the shared folder beside the workspace, and whatever scripts of the
//! same format from `PROMQLTEST_DIR`. They are not part of the repository; ours in `tests/scripts` are.

use std::path::{Path, PathBuf};

use parallax_promql::engine::{Engine, EngineOptions};
use parallax_promql::parse::ParserOptions;
use parallax_promql::script::{Failure, Report, Script};

/// How many of the published scripts' evals must hold. It may only rise.
const PUBLISHED_FLOOR: usize = 1339;

/// Published evals that are known not to hold, as `file:line`, each with its reason.
const KNOWN_EXCEPTIONS: [(&str, &str); 0] = [];

fn published_scripts() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/promqltest");
    let in_shared =
        std::env::var_os("PARALLAX_SHARED").map(|folder| PathBuf::from(folder).join("promqltest"));
    [in_shared, Some(shared)].into_iter().flatten().find(|folder| folder.is_dir())
}

fn scripts_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of scripts");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    files
}

fn name_of(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The engine as Prometheus' own runner sets it up.
fn engine() -> Engine {
    Engine::new(EngineOptions { delayed_name_removal: true, ..EngineOptions::default() })
}

fn run(file: &Path) -> Report {
    let text = std::fs::read_to_string(file).expect("a readable script");
    let script = Script::read(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    script.run(&engine(), &ParserOptions::all_features())
}

#[test]
fn our_scripts_hold() {
    let files = scripts_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts"));
    assert!(!files.is_empty());
    let mut failures = Vec::new();
    for file in files {
        let report = run(&file);
        println!("{}: {} passed, {} failed", name_of(&file), report.passed, report.failures.len());
        failures.extend(report.failures.iter().map(|failure| format!("{}: {failure}", name_of(&file))));
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn published_scripts_hold() {
    let Some(folder) = published_scripts() else {
        println!("left out: no published scripts at hand");
        return;
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for file in scripts_in(&folder) {
        let name = name_of(&file);
        let report = run(&file);
        println!("{name}: {} passed, {} failed", report.passed, report.failures.len());
        passed += report.passed;
        for failure in &report.failures {
            println!("  {name}:{}: {}: {}", failure.line, failure.query, shortened(&failure.reason));
            failed.push(format!("{name}:{}", failure.line));
        }
    }
    println!("{passed} passed in all, {} failed", failed.len());
    for (place, reason) in KNOWN_EXCEPTIONS.iter().filter(|(place, _)| !failed.iter().any(|f| f == place)) {
        println!("no longer an exception: {place} ({reason})");
    }
    let is_known = |place: &String| KNOWN_EXCEPTIONS.iter().any(|(known, _)| known == place);
    let unexpected: Vec<&String> = failed.iter().filter(|place| !is_known(place)).collect();
    assert!(unexpected.is_empty(), "these evals failed: {unexpected:?}");
    assert!(passed >= PUBLISHED_FLOOR, "only {passed} evals hold, not {PUBLISHED_FLOOR} as before");
}

/// Any folder of scripts, none of which may fail.
#[test]
fn scripts_of_a_named_folder_hold() {
    let Some(folder) = std::env::var_os("PROMQLTEST_DIR").map(PathBuf::from) else {
        println!("left out: PROMQLTEST_DIR names no folder of further scripts");
        return;
    };
    assert!(folder.is_dir(), "PROMQLTEST_DIR={}: there is no such folder", folder.display());
    let files = scripts_in(&folder);
    assert!(!files.is_empty(), "PROMQLTEST_DIR={}: there is no file *.test in it", folder.display());
    let mut failed = Vec::new();
    for file in files {
        let (name, report) = (name_of(&file), run(&file));
        println!("{name}: {} passed, {} failed", report.passed, report.failures.len());
        let described = |failure: &Failure| {
            format!("{name}:{}: {}: {}", failure.line, failure.query, shortened(&failure.reason))
        };
        failed.extend(report.failures.iter().map(described));
    }
    assert!(failed.is_empty(), "{} evals failed:\n{}", failed.len(), failed.join("\n"));
}

fn shortened(reason: &str) -> String {
    const MOST: usize = 400;
    match reason.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

/// A runner that accepts everything would let every script hold.
#[test]
fn wrong_statements_are_noticed() {
    const LOADED: &str = "load 1m\n m{a=\"1\"} 1 2\n m{a=\"2\"} 3 4\n total 0+1x2\n h {{schema:0 sum:1 count:1 buckets:[1]}}\n\n";
    let holds = |eval: &str| {
        let script =
            Script::read(&format!("{LOADED}{eval}")).unwrap_or_else(|error| panic!("{eval}: {error}"));
        assert_eq!(script.eval_count(), 1, "{eval}");
        script.run(&engine(), &ParserOptions::all_features()).failures.is_empty()
    };
    for right in [
        "eval instant at 0 m\n m{a=\"1\"} 1\n m{a=\"2\"} 3",
        "eval range from 0 to 1m step 1m m{a=\"1\"}\n m{a=\"1\"} 1 2",
        "eval instant at 0 sort_desc(m)\n expect ordered\n m{a=\"2\"} 3\n m{a=\"1\"} 1",
        "eval instant at 0 1 + 1\n 2",
        "eval instant at 0 h\n h {{schema:0 sum:1 count:1 buckets:[1 0]}}",
        "eval instant at 0 m * on () m\n expect fail regex: duplicate series",
        "eval_fail instant at 0 m * on () m",
        "eval_ordered instant at 0 sort(m)\n m{a=\"1\"} 1\n m{a=\"2\"} 3",
        "eval instant at 1m rate(m{a=\"1\"}[2m])\n expect info\n expect no_warn\n {a=\"1\"} 0.016666666666666666",
    ] {
        assert!(holds(right), "{right}");
    }
    for wrong in [
        "eval instant at 0 m\n m{a=\"1\"} 1",
        "eval instant at 0 m\n m{a=\"1\"} 1\n m{a=\"2\"} 3\n m{a=\"3\"} 3",
        "eval instant at 0 m\n m{a=\"1\"} 1\n m{a=\"2\"} 3.001",
        "eval instant at 0 m{a=\"1\"}\n m{a=\"1\"} _",
        "eval range from 0 to 1m step 1m m{a=\"1\"}\n m{a=\"1\"} 1 3",
        "eval range from 0 to 1m step 1m m{a=\"1\"}\n m{a=\"1\"} 1",
        "eval range from 0 to 1m step 1m m{a=\"1\"}\n m{a=\"1\"} 1 2 3",
        "eval range from 0 to 1m step 1m m{a=\"1\"}\n m{a=\"1\"} _ 2",
        "eval instant at 0 sort_desc(m)\n expect ordered\n m{a=\"1\"} 1\n m{a=\"2\"} 3",
        "eval instant at 0 1 + 1\n 3",
        "eval instant at 0 1 + 1\n {} 2",
        "eval instant at 0 vector(2)\n 2",
        "eval instant at 0 h\n h {{schema:0 sum:1 count:1 buckets:[2]}}",
        "eval instant at 0 h\n h {{schema:0 sum:1 count:1 buckets:[1] offset:1}}",
        "eval instant at 0 h\n h 1",
        "eval instant at 0 \"x\"\n expect string \"y\"",
        "eval instant at 0 m\n expect fail",
        "eval instant at 0 m * on () m\n expect fail msg: something else",
        "eval instant at 0 m * on () m",
        "eval instant at 0 total{a=~\"(\"}",
        "eval instant at 0 quantile(2, total)\n expect no_warn\n {} Inf",
        "eval instant at 0 quantile(2, total)\n expect warn msg: other\n {} Inf",
        "eval instant at 0 total\n expect warn\n total 0",
        "eval instant at 1m rate(m{a=\"1\"}[2m])\n expect no_info\n {a=\"1\"} 0.016666666666666666",
    ] {
        assert!(!holds(wrong), "{wrong}");
    }
}

#[test]
fn lines_that_are_no_command_are_refused() {
    for bad in [
        "nonsense",
        "load",
        "load x",
        "load 1m\n m{",
        "eval",
        "eval sometime at 0 m",
        "eval instant 0 m",
        "eval instant at x m",
        "eval range from 2m to 1m step 1m m",
        "eval range from 0 to 1m step 0 m",
        "eval instant at 0 m\n m 1 2",
        "eval instant at 0 m\n expect nothing",
        "eval instant at 0 m\n expect fail\n expect fail",
        "eval instant at 0 m\n expect info\n expect no_info",
        "eval instant at 0 m\n expect warn regex: (",
        "eval instant at 0 m\n expect string unquoted",
        "eval instant at 0 m\n expect range vector from 0",
    ] {
        assert!(Script::read(bad).is_err(), "{bad}");
    }
}
