//! Prometheus' `/api/v1/status/tsdb`.

use parallax_storeapi::proto::thanos::{HeadStatistics, Statistic, TsdbStatisticsEntry};
use serde::Deserialize;

use super::Prometheus;
use crate::SidecarError;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusAnswer {
    head_stats: HeadAnswer,
    series_count_by_metric_name: Option<Vec<StatisticAnswer>>,
    label_value_count_by_label_name: Option<Vec<StatisticAnswer>>,
    memory_in_bytes_by_label_name: Option<Vec<StatisticAnswer>>,
    series_count_by_label_value_pair: Option<Vec<StatisticAnswer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadAnswer {
    num_series: u64,
    #[serde(default)]
    num_label_pairs: i64,
    #[serde(default)]
    chunk_count: i64,
    #[serde(default)]
    min_time: i64,
    #[serde(default)]
    max_time: i64,
}

#[derive(Deserialize)]
struct StatisticAnswer {
    name: String,
    value: u64,
}

impl Prometheus {
    /// Statistics of the head; each list has at most `limit` entries, or Prometheus' own limit if that is 0. Servers before 2.48 know no other.
    pub async fn tsdb_status(&self, limit: i32) -> Result<TsdbStatisticsEntry, SidecarError> {
        let mut parameters = Vec::new();
        if limit > 0 {
            parameters.push(("limit", limit.to_string()));
        }
        let answer: StatusAnswer = self.get_json("/api/v1/status/tsdb", &parameters).await?;
        let head = answer.head_stats;
        Ok(TsdbStatisticsEntry {
            head_statistics: Some(HeadStatistics {
                num_series: head.num_series,
                num_label_pairs: head.num_label_pairs,
                chunk_count: head.chunk_count,
                min_time: head.min_time,
                max_time: head.max_time,
            }),
            series_count_by_metric_name: to_wire(answer.series_count_by_metric_name),
            label_value_count_by_label_name: to_wire(answer.label_value_count_by_label_name),
            memory_in_bytes_by_label_name: to_wire(answer.memory_in_bytes_by_label_name),
            series_count_by_label_value_pair: to_wire(answer.series_count_by_label_value_pair),
        })
    }
}

fn to_wire(list: Option<Vec<StatisticAnswer>>) -> Vec<Statistic> {
    let one = |StatisticAnswer { name, value }| Statistic { name, value };
    list.into_iter().flatten().map(one).collect()
}
