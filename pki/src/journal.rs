//! The journal of an authority: one line of JSON per change, each with the hash of the line before.
//!
//! ```text
//! {"sequence":2,"previous":"<sha256 of line 1>","time":"2026-11-22T05:00:00Z","who":"ops","events":[{"event":"leaf_issued",...}]}
//! ```
//!
//! Invariants: a line is whole (ends in a newline) or was never committed; a changed, missing or reordered line breaks the chain and is an error that
//! names the line. What lies behind the last newline is the rest of a write that was cut off: readers ignore it, the next writer removes it.
//! The chain shows edits, not the loss of whole lines at the end: compare [`Journal::head`] with a copy kept elsewhere (`pki status` prints it).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bundle::digest_text;
use crate::ledger::Event;

/// Largest journal that is read, in bytes: some 100,000 leaves.
pub const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// What the first line has in place of a hash.
const NO_LINE: &str = "";

/// One committed change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counts from 1.
    pub sequence: u64,
    /// SHA-256 of the line before, without its newline.
    pub previous: String,
    pub time: Timestamp,
    /// Who ran the command, as far as the system says.
    pub who: String,
    pub events: Vec<Event>,
}

/// The committed lines of a journal.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    pub entries: Vec<Entry>,
    /// SHA-256 of the last line.
    pub head: String,
    /// Where the last committed line ends.
    pub len_bytes: u64,
    /// Bytes behind it: the rest of a write that was cut off.
    pub torn_bytes: u64,
}

impl Journal {
    /// Reads a journal. The error is the reason alone, with the number of the line.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let committed = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut journal = Self {
            len_bytes: committed as u64,
            torn_bytes: (text.len() - committed) as u64,
            ..Self::default()
        };
        let lines = text.get(..committed).unwrap_or_default();
        for (index, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = std::str::from_utf8(line).map_err(|_| format!("line {number} is not text"))?;
            let entry: Entry =
                serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
            if entry.sequence != number as u64 || entry.previous != journal.head {
                return Err(format!(
                    "line {number} does not follow the one before: the journal was edited, or a line is missing"
                ));
            }
            journal.head = digest_text(line);
            journal.entries.push(entry);
        }
        Ok(journal)
    }

    /// The line that commits `events` after this journal, with its newline.
    pub fn next_line(
        &self,
        time: Timestamp,
        who: &str,
        events: Vec<Event>,
    ) -> Result<(Entry, String), String> {
        let previous = if self.entries.is_empty() { NO_LINE.to_owned() } else { self.head.clone() };
        let sequence = self.entries.len() as u64 + 1;
        let entry = Entry { sequence, previous, time, who: who.to_owned(), events };
        let mut line = serde_json::to_string(&entry).map_err(|error| error.to_string())?;
        line.push('\n');
        Ok((entry, line))
    }

    /// Takes over a line that has been written.
    pub fn push(&mut self, entry: Entry, line: &str) {
        self.head = digest_text(line.trim_end_matches('\n'));
        self.len_bytes += line.len() as u64;
        self.torn_bytes = 0;
        self.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Hierarchy;

    fn text(count: u32) -> String {
        let mut journal = Journal::default();
        let mut text = String::new();
        for generation in 0..count {
            let event = Event::KeyDestroyed { hierarchy: Hierarchy::Observers, generation };
            let (entry, line) = journal.next_line(Timestamp::UNIX_EPOCH, "test", vec![event]).unwrap();
            journal.push(entry, &line);
            text.push_str(&line);
        }
        text
    }

    #[test]
    fn a_journal_reads_back_and_goes_on_where_it_ended() {
        let text = text(3);
        let journal = Journal::parse(text.as_bytes()).unwrap();
        assert_eq!((journal.entries.len(), journal.torn_bytes), (3, 0));
        let (next, _) = journal.next_line(Timestamp::UNIX_EPOCH, "test", vec![]).unwrap();
        assert_eq!((next.sequence, next.previous), (4, journal.head));
        assert!(Journal::parse(b"").unwrap().entries.is_empty());
    }

    #[test]
    fn a_line_that_was_cut_off_was_never_committed() {
        let text = text(2);
        for cut in 1..text.len() {
            let journal = Journal::parse(&text.as_bytes()[..cut]).unwrap();
            let whole = text[..cut].matches('\n').count();
            assert_eq!(journal.entries.len(), whole, "cut at {cut}");
            assert_eq!(journal.len_bytes + journal.torn_bytes, cut as u64);
        }
    }

    #[test]
    fn edits_are_found() {
        let text = text(3);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for edited in [
            text.replacen("\"who\":\"test\"", "\"who\":\"else\"", 1),
            format!("{}{}", lines[0], lines[2]),
            format!("{}{}", lines[1], lines[2]),
            format!("{}{}{}", lines[1], lines[0], lines[2]),
            text.replacen("key_destroyed", "something_else", 1),
            text.replacen('{', "", 1),
        ] {
            assert!(Journal::parse(edited.as_bytes()).is_err(), "{edited}");
        }
    }
}
