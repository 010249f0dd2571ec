//! [`Shard`]: a fixed part of a bucket's groups, for several compactors on a bucket without leases.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::group::{labels_hash, without_replicas};

/// One of some parts. Which one a group belongs to depends on its external labels without replica labels, so that its resolutions stay together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// Whether blocks with these external labels belong to it.
    pub fn takes(self, labels: &BTreeMap<String, String>, replica_labels: &[String]) -> bool {
        labels_hash(&without_replicas(labels, replica_labels)).checked_rem(self.count) == Some(self.index)
    }
}

/// `1/3`: the second of three.
impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no shard: write 0/3, 1/3 and 2/3 for three of them");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let shard =
            Self { index: index.parse().map_err(|_| wrong())?, count: count.parse().map_err(|_| wrong())? };
        if shard.index < shard.count { Ok(shard) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_in_one_shard_whatever_its_replica() {
        let shards: Vec<Shard> = ["0/3", "1/3", "2/3"].map(|text| text.parse().unwrap()).to_vec();
        let mut taken = [0; 3];
        for cluster in 0..100 {
            let labels = |replica: &str| {
                BTreeMap::from([
                    ("cluster".to_owned(), cluster.to_string()),
                    ("replica".to_owned(), replica.to_owned()),
                ])
            };
            let takes = |replica: &str| -> Vec<bool> {
                shards.iter().map(|shard| shard.takes(&labels(replica), &["replica".to_owned()])).collect()
            };
            assert_eq!(takes("a"), takes("b"));
            assert_eq!(takes("a").into_iter().filter(|takes| *takes).count(), 1);
            taken[takes("a").into_iter().position(|takes| takes).unwrap()] += 1;
        }
        assert!(taken.iter().all(|count| *count > 15), "{taken:?}");
    }

    #[test]
    fn what_is_no_shard_is_named() {
        for text in ["", "1", "3/3", "0/0", "-1/2", "a/b", "1/2/3"] {
            assert!(text.parse::<Shard>().unwrap_err().contains("0/3"), "{text}");
        }
    }
}
