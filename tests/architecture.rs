//! The real dependency graph against the table of arrows in ARCHITECTURE.md: neither may say more than the other.

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

/// What each crate's manifest says under `[dependencies]`.
fn real() -> Graph {
    let mut graph = Graph::new();
    let manifests = ["crates", "observee", "observer"].iter().flat_map(|folder| {
        std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path().join("Cargo.toml"))
    });
    for manifest in manifests.chain([root().join("pki/Cargo.toml")]).filter(|path| path.is_file()) {
        let (name, arrows) = read_manifest(&manifest);
        graph.insert(name, arrows);
    }
    graph
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
