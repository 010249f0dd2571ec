//! Bad input, each kind by its name: a message that names the block and what is wrong; everything else is answered.

use std::path::{Path, PathBuf};

use parallax_storeapi::frames;
use parallax_tsdb::crc::crc32c;

use crate::fixture::{Fixture, copy_dir, everything, golden, series};

/// A copy of the golden bucket, and its first block, which the test spoils.
struct Spoiled {
    dir: tempfile::TempDir,
    block: String,
}

impl Spoiled {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&golden("bucket-short"), dir.path());
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let block = names.min().unwrap().into_string().unwrap();
        Self { dir, block }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(&self.block).join(name)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.file(name)).unwrap();
        change(&mut bytes);
        std::fs::write(self.file(name), bytes).unwrap();
    }

    fn change_text(&self, name: &str, from: &str, to: &str) {
        self.change(name, |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replace(from, to).into_bytes();
        });
    }

    async fn ask(&self) -> frames::Collected {
        Fixture::new(self.dir.path()).await.series(everything()).await.unwrap()
    }

    /// The spoiled block is missing, alone, and said to be with these words.
    async fn costs_its_block(&self, words: &[&str]) {
        let answer = self.ask().await;
        let others = {
            let others = Self::new();
            std::fs::remove_dir_all(others.dir.path().join(&self.block)).unwrap();
            others.ask().await
        };
        assert_eq!(answer.series, others.series);
        let named =
            |text: &String| text.contains(&self.block) && words.iter().all(|word| text.contains(word));
        assert!(answer.warnings.iter().any(named), "{words:?} not in {:?}", answer.warnings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_of_version_2() {
    let spoiled = Spoiled::new();
    spoiled.change_text("meta.json", "\t\"version\": 1,\n\t\"thanos\"", "\t\"version\": 2,\n\t\"thanos\"");
    spoiled.costs_its_block(&["meta.json", "version 2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_of_a_hundred_megabytes() {
    let spoiled = Spoiled::new();
    let file = std::fs::OpenOptions::new().write(true).open(spoiled.file("meta.json")).unwrap();
    // Of which the disk keeps none.
    file.set_len(100 << 20).unwrap();
    spoiled.costs_its_block(&["meta.json", "104857600 bytes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_without_its_fields() {
    for field in ["ulid", "minTime", "maxTime"] {
        let spoiled = Spoiled::new();
        spoiled.change_text("meta.json", &format!("\t\"{field}\": "), "\t\"other\": ");
        spoiled.costs_its_block(&["meta.json", field]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_a_wrong_magic_number() {
    let spoiled = Spoiled::new();
    spoiled.change("index", |bytes| bytes[..4].copy_from_slice(b"NOPE"));
    spoiled.costs_its_block(&["index", "magic"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_a_later_version() {
    let spoiled = Spoiled::new();
    spoiled.change("index", |bytes| bytes[4] = 9);
    spoiled.costs_its_block(&["index", "version 9"]).await;
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Changes the refs of every postings list, and makes the checksums right again.
fn change_lists(index: &mut [u8], change: impl Fn(&mut [u8])) {
    let toc = index.len() - 52;
    let place = |nth: usize| u64::from_be_bytes(index[toc + 8 * nth..toc + 8 * nth + 8].try_into().unwrap());
    let (mut at, label_table, end) = (place(4) as usize, place(3) as usize, place(5) as usize);
    let end = if label_table > at { label_table } else { end };
    while at + 12 <= end {
        let len = number(index, at);
        change(&mut index[at + 8..at + 4 + len]);
        let sum = crc32c(&index[at + 4..at + 4 + len]);
        index[at + 4 + len..at + 8 + len].copy_from_slice(&sum.to_be_bytes());
        at = (at + 8 + len).next_multiple_of(4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postings_that_are_not_in_order() {
    let spoiled = Spoiled::new();
    spoiled.change("index", |bytes| {
        change_lists(bytes, |refs| {
            if refs.len() >= 8 {
                let (first, second) = refs.split_at_mut(4);
                first.swap_with_slice(&mut second[..4]);
            }
        });
    });
    spoiled.costs_its_block(&["index", "not in order"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postings_that_point_past_the_end() {
    let spoiled = Spoiled::new();
    spoiled.change("index", |bytes| {
        change_lists(bytes, |refs| {
            for (nth, one) in refs.chunks_exact_mut(4).enumerate() {
                one.copy_from_slice(&(0x0fff_0000 + nth as u32).to_be_bytes());
            }
        });
    });
    spoiled.costs_its_block(&["index", "beyond the series"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_an_unknown_encoding() {
    let spoiled = Spoiled::new();
    let whole = spoiled.ask().await;
    spoiled.change("chunks/000001", |bytes| {
        // Length (one or two bytes), encoding, data, checksum over both.
        let (len, start) = match bytes[8] {
            short if short < 0x80 => (usize::from(short), 9),
            low => (usize::from(low & 0x7f) | usize::from(bytes[9]) << 7, 10),
        };
        bytes[start] = 0x77;
        let sum = crc32c(&bytes[start..=start + len]);
        bytes[start + 1 + len..start + 5 + len].copy_from_slice(&sum.to_be_bytes());
    });
    let answer = spoiled.ask().await;
    let count = |answer: &frames::Collected| answer.series.iter().map(|one| one.chunks.len()).sum::<usize>();
    assert_eq!(count(&answer), count(&whole) - 1);
    let [warning] = &answer.warnings[..] else { panic!("{:?}", answer.warnings) };
    for word in [spoiled.block.as_str(), "chunks/000001", "encoding"] {
        assert!(warning.contains(word), "{warning}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_mark_that_does_not_parse_hides_nothing() {
    let whole = Spoiled::new().ask().await;
    for text in ["not json", "{}", r#"{"id":"01M7ZT2XAE94D33BEGH3SZ0N19","version":9,"deletion_time":1}"#] {
        let spoiled = Spoiled::new();
        std::fs::write(spoiled.file("deletion-mark.json"), text).unwrap();
        let answer = spoiled.ask().await;
        assert_eq!(answer.series, whole.series);
        assert!(answer.warnings.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_takes_no_header_costs_the_block_and_names_the_file() {
    let spoiled = Spoiled::new();
    let data = tempfile::tempdir().unwrap();
    // Where the header's directory would be made.
    std::fs::write(data.path().join(&spoiled.block), b"in the way").unwrap();
    let fixture = Fixture::with(spoiled.dir.path(), |config| config.data_dir = data.path().into()).await;
    let answer = fixture.series(everything()).await.unwrap();
    let named = |text: &String| text.contains(&spoiled.block) && text.contains("index-header");
    assert!(answer.warnings.iter().any(named), "{:?}", answer.warnings);
    assert!(!answer.series.is_empty());
    // When there is room again the next call has all.
    std::fs::remove_file(data.path().join(&spoiled.block)).unwrap();
    let answer = fixture.series(everything()).await.unwrap();
    assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_killed_while_it_wrote_a_header_leaves_nothing_in_the_way() {
    let spoiled = Spoiled::new();
    let fixture = Fixture::new(spoiled.dir.path()).await;
    let whole = fixture.series(everything()).await.unwrap();
    let header = |data: &Path| data.join(&spoiled.block).join("index-header");
    let sound = std::fs::read(header(fixture.data_dir())).unwrap();
    for written in [0, 10, sound.len() / 2, sound.len()] {
        std::fs::remove_file(header(fixture.data_dir())).unwrap();
        let staged = header(fixture.data_dir()).with_extension("tmp");
        std::fs::write(&staged, &sound[..written]).unwrap();
        let restarted = fixture.restarted().await;
        let answer = series(&*restarted, everything()).await.unwrap();
        assert_eq!(answer.series, whole.series);
        assert!(answer.warnings.is_empty());
        assert!(std::fs::read(header(fixture.data_dir())).unwrap() == sound);
    }
}
