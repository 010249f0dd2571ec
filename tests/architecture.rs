//! The real dependency graph against the table of arrows in ARCHITECTURE.md: neither may say more than the other. And no file of tests that is in no program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Graph = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rows below the marker: `| crate | may depend on |`.
fn documented() -> Graph {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, after) = text.split_once("<!-- arrows").expect("ARCHITECTURE.md marks its table of arrows");
    after
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let arrows = cells[1].split(',').map(str::trim).filter(|name| !name.is_empty());
            (cells[0].to_owned(), arrows.map(str::to_owned).collect())
        })
        .collect()
}

/// Of every crate but the binary's own.
fn manifests() -> Vec<PathBuf> {
    let manifests = ["crates", "observee", "observer"].iter().flat_map(|folder| {
        std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path().join("Cargo.toml"))
    });
    manifests.chain([root().join("pki/Cargo.toml")]).filter(|path| path.is_file()).collect()
}

/// What each crate's manifest says under `[dependencies]`.
fn real() -> Graph {
    manifests().iter().map(|manifest| read_manifest(manifest)).collect()
}

fn read_manifest(path: &Path) -> (String, BTreeSet<String>) {
    let text = std::fs::read_to_string(path).unwrap();
    let name =
        text.lines().find_map(|line| line.strip_prefix("name = \"parallax-")).unwrap().trim_end_matches('"');
    let arrows = text
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.strip_prefix("parallax-"))
        .filter_map(|line| line.split_once('.').map(|(name, _)| name.to_owned()))
        .collect();
    (name.to_owned(), arrows)
}

#[test]
fn the_table_of_arrows_is_the_real_graph() {
    let (documented, real) = (documented(), real());
    for (name, arrows) in &real {
        let allowed = documented.get(name).unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {name}"));
        assert_eq!(arrows, allowed, "dependencies of {name} (left: its manifest, right: ARCHITECTURE.md)");
    }
    assert_eq!(documented.keys().collect::<Vec<_>>(), real.keys().collect::<Vec<_>>());
}

#[test]
fn components_do_not_import_each_other() {
    let components = ["sidecar", "store-gateway", "querier"];
    for (name, arrows) in real() {
        if components.contains(&name.as_str()) {
            let others: Vec<_> = arrows.iter().filter(|arrow| components.contains(&arrow.as_str())).collect();
            assert!(others.is_empty(), "{name} imports {others:?}");
        }
    }
}

/// The files of a crate's tests are modules of its `suite.rs`; cargo does not look for them by itself.
#[test]
fn every_file_of_tests_is_in_a_program() {
    let mut counted = 0;
    for manifest in manifests().into_iter().chain([root().join("Cargo.toml")]) {
        let text = std::fs::read_to_string(&manifest).unwrap();
        let tests = manifest.with_file_name("tests");
        if !text.contains("autotests = false") {
            assert!(!tests.join("suite.rs").exists(), "{}: autotests is not off", manifest.display());
            continue;
        }
        let suite = std::fs::read_to_string(tests.join("suite.rs")).unwrap();
        for entry in std::fs::read_dir(&tests).unwrap() {
            let path = entry.unwrap().path();
            let is_folder_of_a_program = path.join("main.rs").is_file();
            if !is_folder_of_a_program && path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap();
            let is_program = text.contains(&format!("[[test]]\nname = \"{name}\"\n"));
            let is_module = suite.lines().any(|line| line == format!("mod {name};"));
            assert!(is_program != is_module, "{} has to be in one program", path.display());
            counted += 1;
        }
    }
    assert!(counted > 50, "{counted} files of tests");
}
