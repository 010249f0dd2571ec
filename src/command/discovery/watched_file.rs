//! A file of endpoints that is looked at again and again.
//!
//! Compared by content: it works on projected volumes, NFS and plain directories alike. One that cannot be read leaves the last good one in use.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use parallax_querier::Problem;

use super::entries::{self, EndpointFile, MAX_FILE_BYTES};

pub struct WatchedFile {
    /// `None` for text on the command line.
    path: Option<PathBuf>,
    /// The content or the error that was seen last.
    seen: Result<String, String>,
    good: EndpointFile,
    problem: Option<String>,
}

impl WatchedFile {
    /// # Errors
    /// If `text` is no list of endpoints.
    pub fn new(path: Option<PathBuf>, text: String) -> anyhow::Result<Self> {
        let good = entries::parse(&text)?;
        Ok(Self { path, seen: Ok(text), good, problem: None })
    }

    pub fn may_change(&self) -> bool {
        self.path.is_some()
    }

    pub fn good(&self) -> &EndpointFile {
        &self.good
    }

    pub fn problem(&self) -> Option<Problem> {
        let source = self.path.as_ref()?.display().to_string();
        self.problem.as_ref().map(|error| Problem { source, error: error.clone() })
    }

    /// Whether there is anything new to say.
    pub async fn look(&mut self) -> bool {
        let Some(path) = self.path.clone() else { return false };
        let reading = tokio::task::spawn_blocking(move || read(&path).map_err(|error| format!("{error:#}")));
        let content = match reading.await {
            Ok(content) => content,
            Err(error) => Err(error.to_string()),
        };
        if content == self.seen {
            return false;
        }
        let result =
            content.clone().and_then(|text| entries::parse(&text).map_err(|error| format!("{error:#}")));
        self.seen = content;
        match result {
            Ok(good) => {
                self.good = good;
                self.problem = None;
                tracing::info!(endpoints = self.good.endpoints.len(), "endpoint file is applied");
            }
            Err(error) => {
                tracing::warn!(error, "endpoint file is bad; the last good one stays in use");
                self.problem = Some(format!("{error}; the last good file stays in use"));
            }
        }
        true
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let size_bytes = std::fs::metadata(path)?.len();
    ensure!(size_bytes <= MAX_FILE_BYTES, "it has {size_bytes} bytes, and at most {MAX_FILE_BYTES} are read");
    std::fs::read_to_string(path).context("it cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_file_keeps_the_last_good_one_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.yaml");
        let one = "endpoints: [{address: 'a:1'}]".to_owned();
        std::fs::write(&path, &one).unwrap();
        let mut file = WatchedFile::new(Some(path.clone()), one).unwrap();
        assert!(!file.look().await, "nothing has changed");

        std::fs::write(&path, "endpoints: [{address: 'a:1'}, {address: 'b:1'}]").unwrap();
        assert!(file.look().await);
        assert_eq!((file.good().endpoints.len(), file.problem()), (2, None));

        std::fs::write(&path, "endpoints: [{adress: 'a:1'}]").unwrap();
        assert!(file.look().await);
        assert_eq!(file.good().endpoints.len(), 2);
        let problem = file.problem().unwrap();
        assert_eq!(problem.source, path.display().to_string());
        assert!(problem.error.contains("adress") && problem.error.contains("last good"), "{problem:?}");
        assert!(!file.look().await, "it is the same bad file");

        std::fs::remove_file(&path).unwrap();
        assert!(file.look().await);
        assert_eq!(file.good().endpoints.len(), 2);

        std::fs::write(&path, "endpoints: []").unwrap();
        assert!(file.look().await);
        assert_eq!((file.good().endpoints.len(), file.problem()), (0, None));
    }

    #[test]
    fn a_bad_file_at_the_start_is_an_error() {
        assert!(WatchedFile::new(None, "endpoints: 7".to_owned()).is_err());
    }
}
