//! The table of what is proven (`README.md` beside this) names tests that exist, and no number of the design is left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn every_line_of_the_proof_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = fs::read_to_string(root.join("pki/tests/README.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| line"));
    let mut tests: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [line, _, places] = cells[..] else { panic!("three cells: {row}") };
        for place in places.split("; ") {
            let (file, names) = place.split_once(": ").unwrap_or_else(|| panic!("{line}: {place}"));
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            for name in names.split(", ") {
                assert!(text.contains(&format!("fn {name}(")), "{line}: {file} has no test {name}");
                *tests.entry(line).or_default() += 1;
            }
        }
    }
    let numbers =
        (1..=13).map(|number| format!("T{number}")).chain((1..=20).map(|number| number.to_string()));
    for line in numbers {
        assert!(tests.contains_key(line.as_str()), "nothing proves {line}");
    }
}
