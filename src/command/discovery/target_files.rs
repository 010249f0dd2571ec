//! `--store.sd-files`: lists of addresses in Prometheus' format of file discovery, found by patterns and looked at again and again.
//!
//! Invariant: a file that turns bad leaves its last good addresses in use, and shows as a problem; one that is gone takes its addresses along. Labels of
//! targets mean nothing here, as in Thanos. Source of the format: Prometheus' `file_sd_config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use parallax_querier::Problem;
use serde::Deserialize;

use super::entries::{EndpointEntry, MAX_FILE_BYTES};

/// Most files of all patterns.
const MAX_FILES: usize = 1000;

/// See the module.
#[derive(Default)]
pub struct TargetFiles {
    patterns: Vec<Pattern>,
    files: BTreeMap<PathBuf, TargetFile>,
    /// What is wrong with a pattern's directory.
    unread: Vec<Problem>,
}

/// A file's name, with a star in its last part or without.
#[derive(Clone, Debug)]
struct Pattern {
    directory: PathBuf,
    before: String,
    /// `None`: `before` is the whole name.
    after: Option<String>,
}

#[derive(Default)]
struct TargetFile {
    /// The content or the error that was seen last.
    seen: Option<Result<String, String>>,
    good: Vec<String>,
    problem: Option<String>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "part of the format; labels of targets mean nothing to a querier")]
    labels: BTreeMap<String, String>,
}

/// What was found at one look.
struct Look {
    files: Vec<(PathBuf, Result<String, String>)>,
    unread: Vec<Problem>,
}

impl TargetFiles {
    /// # Errors
    /// If a pattern is none, or has no file with addresses at the start that could be read while others are bad.
    pub fn new(patterns: &[String]) -> anyhow::Result<Self> {
        let patterns: Vec<Pattern> =
            patterns.iter().map(|text| text.parse()).collect::<anyhow::Result<_>>()?;
        let mut files = Self { patterns, ..Self::default() };
        files.take(read_all(&files.patterns));
        match files.problems().first() {
            Some(problem) => bail!("{}: {}", problem.source, problem.error),
            None => Ok(files),
        }
    }

    pub fn is_used(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// The addresses of all files; one that stands in several is there once.
    pub fn entries(&self) -> Vec<EndpointEntry> {
        let mut addresses: Vec<&String> = self.files.values().flat_map(|file| &file.good).collect();
        addresses.sort();
        addresses.dedup();
        let entry = |address: &String| EndpointEntry { address: address.clone(), ..EndpointEntry::default() };
        addresses.into_iter().map(entry).collect()
    }

    pub fn problems(&self) -> Vec<Problem> {
        let bad = self.files.iter().filter_map(|(path, file)| {
            Some(Problem { source: path.display().to_string(), error: file.problem.clone()? })
        });
        self.unread.iter().cloned().chain(bad).collect()
    }

    /// Whether there is anything new to say.
    pub async fn look(&mut self) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let patterns = self.patterns.clone();
        match tokio::task::spawn_blocking(move || read_all(&patterns)).await {
            Ok(look) => self.take(look),
            Err(_) => false,
        }
    }

    fn take(&mut self, look: Look) -> bool {
        let before = self.files.len();
        // A directory that cannot be read says nothing about its files.
        if look.unread.is_empty() {
            self.files.retain(|path, _| look.files.iter().any(|(found, _)| found == path));
        }
        let mut changed = before != self.files.len() || look.unread != self.unread;
        self.unread = look.unread;
        for (path, content) in look.files {
            changed |= self.files.entry(path).or_default().take(content);
        }
        changed
    }
}

impl TargetFile {
    fn take(&mut self, content: Result<String, String>) -> bool {
        if self.seen.as_ref() == Some(&content) {
            return false;
        }
        let parsed = content.clone().and_then(|text| parse(&text).map_err(|error| format!("{error:#}")));
        self.seen = Some(content);
        match parsed {
            Ok(good) => (self.good, self.problem) = (good, None),
            Err(error) => {
                tracing::warn!(error, "a file of addresses is bad; its last good addresses stay in use");
                self.problem = Some(format!("{error}; the last good addresses stay in use"));
            }
        }
        true
    }
}

/// JSON is YAML.
fn parse(text: &str) -> anyhow::Result<Vec<String>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let groups: Vec<Group> = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(groups.into_iter().flat_map(|group| group.targets).collect())
}

fn read_all(patterns: &[Pattern]) -> Look {
    let mut look = Look { files: Vec::new(), unread: Vec::new() };
    for pattern in patterns {
        match pattern.files() {
            Ok(paths) => {
                for path in paths {
                    if look.files.len() >= MAX_FILES {
                        let error = format!("more than {MAX_FILES} files; this one and others are left out");
                        look.unread.push(Problem { source: path.display().to_string(), error });
                        return look;
                    }
                    let content = read(&path).map_err(|error| format!("{error:#}"));
                    look.files.push((path, content));
                }
            }
            Err(error) => {
                let source = pattern.directory.display().to_string();
                look.unread.push(Problem { source, error: format!("{error:#}") });
            }
        }
    }
    look
}

fn read(path: &Path) -> anyhow::Result<String> {
    let size_bytes = std::fs::metadata(path)?.len();
    ensure!(size_bytes <= MAX_FILE_BYTES, "it has {size_bytes} bytes, and at most {MAX_FILE_BYTES} are read");
    std::fs::read_to_string(path).context("it cannot be read")
}

impl std::str::FromStr for Pattern {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (directory, name) = text.rsplit_once('/').unwrap_or((".", text));
        let is_list = [".json", ".yml", ".yaml"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        ensure!(is_list, "{text:?}: files of addresses end in .json, .yml or .yaml");
        ensure!(
            !directory.contains('*') && name.matches('*').count() <= 1 && !text.contains(['?', '[']),
            "{text:?}: one * in the last part of the path is all that is understood"
        );
        let directory = PathBuf::from(if directory.is_empty() { "/" } else { directory });
        Ok(match name.split_once('*') {
            None => Self { directory, before: name.to_owned(), after: None },
            Some((before, after)) => {
                Self { directory, before: before.to_owned(), after: Some(after.to_owned()) }
            }
        })
    }
}

impl Pattern {
    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let Some(after) = &self.after else {
            // A file that is not there yet may come.
            let path = self.directory.join(&self.before);
            return Ok(if path.exists() { vec![path] } else { Vec::new() });
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(self.before.as_str());
            if rest.is_some_and(|rest| rest.ends_with(after.as_str())) {
                found.push(self.directory.join(name));
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(files: &TargetFiles) -> Vec<String> {
        files.entries().into_iter().map(|entry| entry.address).collect()
    }

    #[tokio::test]
    async fn files_come_turn_bad_and_go() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
        write("a.json", r#"[{"targets": ["a:1", "b:1"], "labels": {"x": "y"}}, {"targets": ["dns+c:1"]}]"#);
        let pattern = home.path().join("*.json").display().to_string();
        let mut files = TargetFiles::new(&[pattern]).unwrap();
        assert_eq!(addresses(&files), ["a:1", "b:1", "dns+c:1"]);
        assert!(!files.look().await, "nothing has changed");

        write("b.json", "- targets: ['b:1', 'd:1']");
        write("c.yaml", "- targets: ['e:1']");
        assert!(files.look().await);
        assert_eq!(addresses(&files), ["a:1", "b:1", "d:1", "dns+c:1"], "the other one has another name");

        write("b.json", "targets: 7");
        assert!(files.look().await);
        assert_eq!(addresses(&files).len(), 4);
        let problem = files.problems().remove(0);
        assert!(problem.source.ends_with("b.json") && problem.error.contains("last good"), "{problem:?}");

        std::fs::remove_file(home.path().join("a.json")).unwrap();
        write("b.json", "[]");
        assert!(files.look().await);
        assert!(addresses(&files).is_empty() && files.problems().is_empty());
    }

    #[test]
    fn patterns_and_files_that_cannot_be_are_errors_at_the_start() {
        for text in ["a.txt", "*/a.json", "a*b*.json", "a?.yml"] {
            assert!(TargetFiles::new(&[text.to_owned()]).is_err(), "{text}");
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.yml");
        assert!(TargetFiles::new(&[path.display().to_string()]).is_ok(), "it may come");
        std::fs::write(&path, "targets: 7").unwrap();
        assert!(TargetFiles::new(&[path.display().to_string()]).is_err());
    }
}
