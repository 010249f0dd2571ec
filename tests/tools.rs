//! `parallax tools bucket …` on a copy of the golden bucket.

use std::path::{Path, PathBuf};

use crate::program::{self, Finished, run};
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

#[test]
fn long_blocks_are_downsampled_and_short_ones_are_not() {
    let fixture = Fixture::new();
    // As if it were of two days, with samples of two hours.
    let path = fixture.block().join("meta.json");
    let mut meta: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let until_ms = meta["minTime"].as_i64().unwrap() + 48 * 3_600_000;
    meta["maxTime"] = until_ms.into();
    std::fs::write(&path, meta.to_string()).unwrap();
    let planned = fixture.chore("downsample", &["--dry-run"]);
    let planned = planned["planned"].as_array().unwrap();
    assert_eq!((planned.len(), fixture.blocks_in("bucket")), (1, 12), "{planned:?}");
    assert_eq!((&planned[0]["block"], &planned[0]["action"]), (&BLOCK.into(), &"downsample".into()));
    assert_eq!(fixture.chore("downsample", &[])["downsamples"], 1);
    let rows: Value = serde_json::from_str(&fixture.tool("inspect", &["-o", "json"]).stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let coarse: Vec<&Value> = rows.iter().filter(|row| row["resolution_ms"] == 300_000).collect();
    assert_eq!((rows.len(), coarse.len()), (13, 1), "{rows:?}");
    let id = format!("--id={}", coarse[0]["ulid"].as_str().unwrap());
    assert_eq!(fixture.tool("verify", &[&id]).code, Some(0));
    assert_eq!(fixture.chore("downsample", &[])["downsamples"], 0, "once is enough");
    // One whose chunks are damaged is named, and costs no other block anything.
    let segment = fixture.block().join("chunks/000001");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    std::fs::remove_dir_all(fixture.dir.path().join("bucket").join(coarse[0]["ulid"].as_str().unwrap()))
        .unwrap();
    let data_dir = format!("--data-dir={}", fixture.dir.path().join("data").display());
    let finished = fixture.tool("downsample", &[&data_dir, "--consistency-delay=0s"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(BLOCK) && finished.stderr.contains("chunks/000001"), "{finished:?}");
}

impl Fixture {
    /// Blocks with a `meta.json` in another bucket of the fixture.
    fn blocks_in(&self, bucket: &str) -> usize {
        let Ok(dirs) = std::fs::read_dir(self.dir.path().join(bucket)) else { return 0 };
        dirs.filter(|dir| dir.as_ref().unwrap().path().join("meta.json").exists()).count()
    }
}

#[test]
fn blocks_are_copied_to_another_bucket_once_and_whole() {
    let fixture = Fixture::new();
    let to = format!(
        "--objstore-to.config=type: FILESYSTEM\nconfig: {{directory: {}}}",
        fixture.dir.path().join("copy").display()
    );
    std::fs::create_dir(fixture.dir.path().join("copy")).unwrap();
    let outcomes = |more: &[&str]| -> Vec<String> {
        let data_dir = format!("--data-dir={}", fixture.dir.path().join("data").display());
        let flags = [&[to.as_str(), data_dir.as_str(), "-o", "json"], more].concat();
        let finished = fixture.tool("replicate", &flags);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let rows: Value = serde_json::from_str(&finished.stdout).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["outcome"].as_str().unwrap().to_owned()).collect()
    };
    let eu = r#"--matcher=cluster="eu-1""#;
    assert_eq!((outcomes(&["--dry-run", eu]).len(), fixture.blocks_in("copy")), (6, 0));
    assert_eq!((outcomes(&[eu]), fixture.blocks_in("copy")), (vec!["copied".to_owned(); 6], 6));
    assert_eq!(outcomes(&[eu]), vec!["there-already"; 6]);
    assert_eq!(outcomes(&["--compaction=9"]).len(), 0);
    let copied = fixture.dir.path().join("copy").join(BLOCK);
    let original = fixture.block();
    for file in ["meta.json", "index", "chunks/000001"] {
        assert_eq!(std::fs::read(copied.join(file)).unwrap(), std::fs::read(original.join(file)).unwrap());
    }
    // One that is not whole is not copied, and one of the same name that is another is left alone.
    std::fs::remove_file(original.join("index")).unwrap();
    std::fs::remove_file(copied.join("meta.json")).unwrap();
    let finished = fixture.tool("replicate", &[&to, &format!("--id={BLOCK}"), "-o", "json"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains("index") && !copied.join("meta.json").exists(), "{finished:?}");
    std::fs::write(copied.join("meta.json"), "{}").unwrap();
    let finished = fixture.tool("replicate", &[&to, &format!("--id={BLOCK}"), "-o", "json"]);
    assert!(finished.code == Some(1) && finished.stdout.contains("differs"), "{finished:?}");
    let finished = fixture.tool("replicate", &[]);
    assert!(finished.code == Some(2) && finished.stderr.contains("--objstore-to.config"), "{finished:?}");
}

#[test]
fn a_directory_of_blocks_is_uploaded_with_external_labels() {
    let fixture = Fixture::new();
    let local = fixture.dir.path().join("local");
    let target = local.join(BLOCK);
    copy_dir(&fixture.block(), &target);
    std::fs::remove_dir_all(fixture.block()).unwrap();
    let mut meta: Value = serde_json::from_slice(&std::fs::read(target.join("meta.json")).unwrap()).unwrap();
    meta.as_object_mut().unwrap().remove("thanos");
    std::fs::write(target.join("meta.json"), meta.to_string()).unwrap();
    let path = format!("--path={}", local.display());
    let finished = fixture.tool("upload-blocks", &[&path, "-o", "json"]);
    assert!(finished.code == Some(1) && finished.stdout.contains("--label"), "{finished:?}");
    let label = r#"--label=cluster="eu-9""#;
    let finished = fixture.tool("upload-blocks", &[&path, label, "--dry-run"]);
    assert!(finished.code == Some(0) && !fixture.block().exists(), "{finished:?}");
    let finished = fixture.tool("upload-blocks", &[&path, label]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let rows = fixture.tool("inspect", &["-l", r#"cluster="eu-9""#, "-o", "csv"]).stdout;
    assert!(rows.lines().count() == 2 && rows.contains(BLOCK) && rows.contains("bucket.upload"), "{rows}");
    assert_eq!(fixture.tool("verify", &[&format!("--id={BLOCK}")]).code, Some(0));
    let again = fixture.tool("upload-blocks", &[&path, label, "-o", "json"]);
    assert!(again.code == Some(0) && again.stdout.contains("there-already"), "{again:?}");
}

#[test]
fn a_block_is_rewritten_without_what_is_asked_for() {
    let fixture = Fixture::new();
    let id = format!("--id={BLOCK}");
    let tmp = format!("--tmp.dir={}", fixture.dir.path().join("tmp").display());
    let blocks = fixture.blocks_in("bucket");
    let rewrite = |yaml: &str, more: &[&str]| -> Value {
        let yaml = format!("--rewrite.to-delete-config={yaml}");
        let flags = [&[id.as_str(), tmp.as_str(), yaml.as_str(), "-o", "json"], more].concat();
        let finished = fixture.tool("rewrite", &flags);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        serde_json::from_str::<Value>(&finished.stdout).unwrap()[0].clone()
    };
    let up = r#"[{matchers: '{__name__="up"}'}]"#;
    let counted = rewrite(up, &[]);
    let count = |row: &Value, field: &str| row[field].as_u64().unwrap();
    assert!(count(&counted, "series_left") < count(&counted, "series"), "{counted}");
    assert!(count(&counted, "samples_left") < count(&counted, "samples"), "{counted}");
    assert!(counted["new"].is_null() && fixture.blocks_in("bucket") == blocks, "a dry run by default");
    let nothing = rewrite(r#"[{matchers: '{__name__="absent"}'}]"#, &["--no-dry-run", "--delete-blocks"]);
    assert!(nothing["new"].is_null() && fixture.blocks_in("bucket") == blocks, "{nothing}");
    let rewritten = rewrite(up, &["--no-dry-run", "--delete-blocks"]);
    let new = rewritten["new"].as_str().unwrap();
    assert!(fixture.block().join("deletion-mark.json").exists());
    let meta = std::fs::read(fixture.dir.path().join("bucket").join(new).join("meta.json")).unwrap();
    let meta: Value = serde_json::from_slice(&meta).unwrap();
    assert_eq!(meta["stats"]["numSeries"], rewritten["series_left"]);
    assert_eq!(meta["compaction"]["sources"], serde_json::json!([new]));
    let applied = &meta["thanos"]["rewrites"][0];
    assert_eq!(applied["sources"][0], BLOCK);
    assert_eq!(applied["deletions_applied"][0]["matchers"][0]["Value"], "up");
    assert_eq!(meta["thanos"]["source"], "bucket.rewrite");
    assert_eq!(fixture.tool("verify", &[&format!("--id={new}")]).code, Some(0));
    let finished = fixture.tool("rewrite", &[&id]);
    assert!(finished.code == Some(2) && finished.stderr.contains("to-delete-config"), "{finished:?}");
}

#[tokio::test]
async fn the_blocks_are_shown_over_http() {
    let fixture = Fixture::new();
    let bucket = fixture.dir.path().join("bucket");
    let objstore = format!("--objstore.config=type: FILESYSTEM\nconfig: {{directory: {}}}", bucket.display());
    let http = format!("127.0.0.1:{}", parallax_testkit::process::free_port().unwrap());
    let address = format!("--http-address={http}");
    let line = ["tools", "bucket", "web", objstore.as_str(), address.as_str(), "--label=cluster"];
    let mut web = program::Program::start(&mut program::command(line), fixture.dir.path(), "web");
    let ready = format!("http://{http}/-/ready");
    web.process().wait_for_http(&ready, program::PATIENCE).await.unwrap();
    let client =
        parallax_net::HttpClient::new(parallax_net::HttpClientConfig::new(format!("http://{http}"))).unwrap();
    let body = async |path: &str| {
        let answer = client.get(path, &[]).await.unwrap();
        String::from_utf8(answer.bytes(1 << 20).await.unwrap().to_vec()).unwrap()
    };
    let page = body("/").await;
    assert!(page.contains(BLOCK) && page.matches("<h2>").count() == 2, "{page}");
    let answer: Value = serde_json::from_str(&body("/api/v1/blocks").await).unwrap();
    assert_eq!(answer["data"]["blocks"].as_array().unwrap().len(), 12, "{answer}");
    assert_eq!(answer["data"]["blocks"][0]["thanos"]["labels"]["cluster"], "eu-1");
}
