//! A stand-in for Prometheus with blocks in its directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parallax_block::{BlockId, BlockMeta};
use parallax_model::TimeRange;
use parallax_net::HttpServer;
use parallax_simulate::Fleet;
use parallax_simulate::history::{self, BLOCK_RANGE_MS};
use parallax_simulate::stand_in::{StandIn, now_ms, router};
use tokio_util::sync::CancellationToken;

pub struct World {
    pub directory: tempfile::TempDir,
    pub fleet: Fleet,
    /// The time of all blocks.
    pub range: TimeRange,
    /// Oldest first.
    pub blocks: Vec<BlockId>,
    pub url: String,
    pub stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub async fn start(blocks: i64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 0, instances: 1, seed: 5 };
        let end_ms = now_ms().div_euclid(BLOCK_RANGE_MS) * BLOCK_RANGE_MS;
        let range = TimeRange::new(end_ms - blocks * BLOCK_RANGE_MS, end_ms - 1);
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let blocks = history::write(&fleet, range, &data).unwrap();
        let server = HttpServer::bind("127.0.0.1:0", "stand-in").await.unwrap();
        let url = format!("http://{}", server.local_addr());
        let stop = CancellationToken::new();
        let stand_in = StandIn { fleet: fleet.clone(), start_ms: range.min_ms };
        tokio::spawn(server.serve(router(stand_in), stop.clone()));
        Self { directory, fleet, range, blocks, url, stop }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn journal(&self) -> PathBuf {
        self.at("data/thanos.shipper.json")
    }

    /// Blocks that the journal says are in the bucket.
    pub fn journaled(&self) -> Vec<BlockId> {
        let Ok(bytes) = std::fs::read(self.journal()) else { return Vec::new() };
        let journal: serde_json::Value =
            serde_json::from_slice(&bytes).expect("the journal is never half written");
        let ids = journal["uploaded"].as_array().unwrap().iter();
        ids.map(|id| id.as_str().unwrap().parse().unwrap()).collect()
    }

    /// The files of a block that go up as they are.
    pub fn data_files(&self, block: BlockId) -> BTreeMap<String, Vec<u8>> {
        let names = ["index", "chunks/000001"].iter();
        let read = |name: &str| std::fs::read(self.at("data").join(block.to_string()).join(name)).unwrap();
        names.map(|name| (block.object(name), read(name))).collect()
    }

    /// The blocks that are in a bucket of these objects, each checked: it is whole, and it is what Prometheus wrote.
    pub fn whole_blocks(&self, objects: &BTreeMap<String, Bytes>) -> Vec<BlockId> {
        let visible: Vec<BlockId> =
            self.blocks.iter().copied().filter(|id| objects.contains_key(&id.meta_object())).collect();
        for id in &visible {
            let meta = BlockMeta::parse_of(*id, &objects[&id.meta_object()]).unwrap();
            assert_eq!(meta.external_labels(), self.fleet.external_labels());
            let files = self.data_files(*id);
            for (object, bytes) in &files {
                assert!(
                    objects.get(object).is_some_and(|found| found == bytes),
                    "{object} is not what it was"
                );
            }
            let listed = meta.thanos.unwrap().files;
            for file in listed.iter().filter(|file| file.rel_path != "meta.json") {
                let object = id.object(&file.rel_path);
                assert_eq!(file.size_bytes, Some(objects[&object].len() as u64), "{object}");
            }
            assert_eq!(listed.len(), files.len() + 1);
        }
        visible
    }
}

/// The objects of a bucket in a directory.
pub fn objects_in(bucket: &Path) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    let mut directories = vec![bucket.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(bucket).unwrap().to_str().unwrap().to_owned();
                found.insert(name, Bytes::from(std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}
