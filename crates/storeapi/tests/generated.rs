//! The committed code under `src/gen/` is what `proto/` generates; `PARALLAX_REGENERATE=1` rewrites it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost_build::Config;

const PROTOS: [&str; 13] = [
    "parallax/peer.proto",
    "prometheus/remote.proto",
    "prometheus/types.proto",
    "thanos/exemplars.proto",
    "thanos/hints.proto",
    "thanos/info.proto",
    "thanos/labels.proto",
    "thanos/metadata.proto",
    "thanos/query.proto",
    "thanos/rules.proto",
    "thanos/status.proto",
    "thanos/store.proto",
    "thanos/targets.proto",
];

/// Aggregates exist only in downsampled data: boxed, they do not swell every raw chunk.
const BOXED: [&str; 5] = ["count", "sum", "min", "max", "counter"];

fn manifest_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generate() -> BTreeMap<String, Vec<u8>> {
    let out = tempfile::tempdir().expect("a temporary directory");
    let descriptors = protox::Compiler::new([manifest_dir().join("proto")])
        .expect("the proto directory")
        .include_source_info(true)
        .include_imports(true)
        .open_files(PROTOS)
        .expect("protos that compile")
        .file_descriptor_set();

    let mut config = Config::new();
    for aggregate in BOXED {
        config.boxed(format!(".thanos.AggrChunk.{aggregate}"));
    }
    config.bytes(["."]);
    config.out_dir(out.path());
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::Codec")
        .out_dir(out.path())
        .compile_fds_with_config(descriptors.clone(), config)
        .expect("generated code");

    let mut files = read_dir(out.path());
    files.insert("descriptor.bin".to_owned(), without_comments(descriptors));
    files
}

/// Reflection needs no comments; they are most of the set's size.
fn without_comments(mut set: prost_types::FileDescriptorSet) -> Vec<u8> {
    for file in &mut set.file {
        file.source_code_info = None;
    }
    prost::Message::encode_to_vec(&set)
}

fn read_dir(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .expect("a readable directory")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a UTF-8 name");
            (name, std::fs::read(entry.path()).expect("a readable file"))
        })
        .collect()
}

#[test]
fn committed_code_is_what_the_protos_generate() {
    let generated = generate();
    let dir = manifest_dir().join("src/gen");
    if std::env::var_os("PARALLAX_REGENERATE").is_some() {
        for (name, content) in &generated {
            std::fs::write(dir.join(name), content).expect("a writable src/gen");
        }
    }
    let committed = read_dir(&dir);
    assert_eq!(
        committed.keys().collect::<Vec<_>>(),
        generated.keys().collect::<Vec<_>>(),
        "files of src/gen differ; run with PARALLAX_REGENERATE=1"
    );
    for (name, content) in &generated {
        assert!(
            committed.get(name) == Some(content),
            "src/gen/{name} is not what proto/ generates; run this test with PARALLAX_REGENERATE=1"
        );
    }
}
