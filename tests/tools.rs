//! `parallax tools bucket …` on a copy of the golden bucket.

#[path = "support/program.rs"]
mod program;

use std::path::{Path, PathBuf};

use program::{Finished, run};
use serde_json::Value;

const BLOCK: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short");
        copy_dir(&golden, &dir.path().join("bucket"));
        Self { dir }
    }

    fn block(&self) -> PathBuf {
        self.dir.path().join("bucket").join(BLOCK)
    }

    fn tool(&self, tool: &str, more: &[&str]) -> Finished {
        let bucket = self.dir.path().join("bucket");
        let objstore =
            format!("--objstore.config=type: FILESYSTEM\nconfig: {{directory: {}}}", bucket.display());
        let mut line = vec!["tools", "bucket", tool, objstore.as_str()];
        line.extend(more);
        run(line)
    }

    /// A tool that does not only look.
    fn chore(&self, tool: &str, more: &[&str]) -> Value {
        let data_dir = format!("--data-dir={}", self.dir.path().join("data").display());
        let mut line = vec!["-o", "json", "--consistency-delay=0s", data_dir.as_str()];
        line.extend(more);
        let finished = self.tool(tool, &line);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        serde_json::from_str(&finished.stdout).unwrap()
    }
}

#[test]
fn ls_and_inspect_show_every_block_in_every_form() {
    let fixture = Fixture::new();
    let plain = fixture.tool("ls", &[]);
    assert_eq!((plain.code, plain.stdout.lines().count()), (Some(0), 12), "{plain:?}");
    assert!(plain.stdout.starts_with(BLOCK));
    let json = fixture.tool("ls", &["-o", "json"]).stdout;
    let metas: Vec<Value> =
        serde_json::Deserializer::from_str(&json).into_iter().map(Result::unwrap).collect();
    assert_eq!((metas.len(), metas[0]["ulid"].as_str()), (12, Some(BLOCK)));
    let rows =
        fixture.tool("inspect", &["-l", r#"cluster="us-1""#, "--sort-by=#SAMPLES", "-o", "csv"]).stdout;
    let mut lines = rows.lines();
    assert!(lines.next().unwrap().starts_with("ULID,FROM,UNTIL,RANGE,#SERIES,#SAMPLES"));
    let samples: Vec<u64> = lines.map(|line| line.split(',').nth(5).unwrap().parse().unwrap()).collect();
    assert!(samples.len() == 6 && samples.is_sorted(), "{samples:?}");
    let rows: Value = serde_json::from_str(&fixture.tool("inspect", &["-o", "json"]).stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 12);
    for (flags, complaint) in [
        (vec!["--sort-by=SIZE"], "#SAMPLES"),
        (vec!["-o", "{{.ULID}}"], "no templates"),
        (vec!["-l", "cluster"], "--selector=cluster"),
    ] {
        let finished = fixture.tool("inspect", &flags);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(complaint), "{}", finished.stderr);
    }
}

#[test]
fn marks_are_placed_once_and_can_be_taken_away() {
    let fixture = Fixture::new();
    let id = format!("--id={BLOCK}");
    let place = [id.as_str(), "--marker=no-compact-mark.json", "--details=by hand", "-o", "json"];
    let file = fixture.block().join("no-compact-mark.json");
    let outcome = |more: &[&str]| -> String {
        let finished = fixture.tool("mark", &[&place, more].concat());
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let outcome: Value = serde_json::from_str(&finished.stdout).unwrap();
        outcome[0][1].as_str().unwrap().to_owned()
    };
    assert_eq!((outcome(&["--dry-run"]).as_str(), file.exists()), ("placed", false));
    assert_eq!((outcome(&[]).as_str(), file.exists()), ("placed", true));
    assert!(std::fs::read_to_string(&file).unwrap().contains("by hand"));
    assert_eq!(outcome(&[]), "there-already");
    assert!(fixture.tool("inspect", &[]).stdout.contains("no-compact (manual)"));
    assert_eq!((outcome(&["--remove"]).as_str(), file.exists()), ("removed", false));
    assert_eq!(outcome(&["--remove"]), "not-there");
    let finished = fixture.tool("mark", &[&id, "--marker=gone.json", "--details=x"]);
    assert!(finished.code == Some(2) && finished.stderr.contains("deletion-mark.json"), "{finished:?}");
}

#[test]
fn verify_finds_what_is_wrong_and_where() {
    let fixture = Fixture::new();
    let sound = fixture.tool("verify", &["-o", "json"]);
    assert_eq!(sound.code, Some(0), "{sound:?}");
    let report: Value = serde_json::from_str(&sound.stdout).unwrap();
    assert!(report["blocks"] == 12 && report["chunks"].as_u64() > Some(100), "{report}");
    let segment = fixture.block().join("chunks/000001");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let damaged = fixture.tool("verify", &[]);
    assert_eq!(damaged.code, Some(1), "{damaged:?}");
    let found: Vec<&str> = damaged.stdout.lines().skip(1).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(BLOCK) && found[0].contains("chunks/000001"), "{found:?}");
    let only = fixture.tool("verify", &["--issues=overlapped_blocks"]);
    assert_eq!(only.code, Some(0), "{only:?}");
}

#[test]
fn retention_and_cleanup_say_first_what_they_do_and_then_do_it() {
    let fixture = Fixture::new();
    let policy = fixture.dir.path().join("policy.yaml");
    std::fs::write(&policy, "rules:\n- match: '{cluster=\"eu-1\"}'\n  raw: 1d\n").unwrap();
    let policy = format!("--retention.policy-file={}", policy.display());
    let retire = [policy.as_str(), "--downsampling.disable"];
    let marks = || {
        let dirs = std::fs::read_dir(fixture.dir.path().join("bucket")).unwrap();
        dirs.filter(|dir| dir.as_ref().unwrap().path().join("deletion-mark.json").exists()).count()
    };
    let planned = fixture.chore("retention", &[&retire[..], &["--dry-run"]].concat());
    assert_eq!((planned["planned"].as_array().unwrap().len(), marks()), (6, 0), "{planned}");
    assert_eq!(fixture.chore("retention", &retire)["retired"], 6);
    assert_eq!(marks(), 6);
    assert_eq!(fixture.chore("cleanup", &[])["deleted"], 0, "not before the delay");
    let planned = fixture.chore("cleanup", &["--delete-delay=0s", "--dry-run"]);
    // A mark must be older than the delay: give it the second that marks are told in.
    assert!(planned["planned"].as_array().is_none_or(|planned| planned.len() <= 6), "{planned}");
    assert_eq!(marks(), 6);
    let old = std::fs::read_dir(fixture.dir.path().join("bucket")).unwrap();
    for mark in old.map(|dir| dir.unwrap().path().join("deletion-mark.json")).filter(|mark| mark.exists()) {
        let mut json: Value = serde_json::from_slice(&std::fs::read(&mark).unwrap()).unwrap();
        json["deletion_time"] = 1.into();
        std::fs::write(&mark, json.to_string()).unwrap();
    }
    assert_eq!(fixture.chore("cleanup", &[])["deleted"], 6);
    assert_eq!(fixture.tool("ls", &[]).stdout.lines().count(), 6);
}
