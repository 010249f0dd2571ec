//! Endpoints over several clusters that fail as a whole: each of the clusters is named, whatever the failure says.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;

use hub::{Hub, impatient};
use parallax_model::{Labels, TimeRange};
use parallax_querier::{Connection, EndpointConfig};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, Store, async_trait, frames, labels};
use serde_json::Value;
use tonic::{Request, Status};

const CLUSTERS: [&str; 2] = ["ap-1", "us-1"];
const UP: &str = "/api/v1/query?query=up&time=1000";

/// Of a querier over two clusters: it hangs, or fails for one of them.
struct OverTwo {
    fails: Option<Status>,
}

#[async_trait]
impl Store for OverTwo {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let sets = CLUSTERS.map(|name| labels::set_to_wire(&Labels::from_pairs([("cluster", name)])));
        let range = TimeRange::new(0, i64::MAX);
        Ok(InfoResponse {
            label_sets: sets.to_vec(),
            component_type: "query".to_owned(),
            store: Some(StoreInfo { min_time: range.min_ms, max_time: range.max_ms, ..StoreInfo::default() }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        match self.fails.clone() {
            Some(status) => Ok(frames::from_vec(vec![Err(status)])),
            None => std::future::pending().await,
        }
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Err(self.fails.clone().unwrap_or_else(|| Status::unavailable("gone")))
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        Err(self.fails.clone().unwrap_or_else(|| Status::unavailable("gone")))
    }
}

async fn over(store: OverTwo) -> Hub {
    let endpoint = EndpointConfig::new("hub:10901", Connection::Local(Arc::new(store)));
    Hub::with(vec![endpoint], impatient).await
}

/// The state of each of the clusters.
fn states(body: &Value) -> [&str; 2] {
    let all = body["coverage"]["clusters"].as_array().unwrap();
    CLUSTERS.map(|name| {
        let one = all.iter().find(|one| one["cluster"] == name);
        one.unwrap_or_else(|| panic!("nothing is said of {name}: {body}"))["state"].as_str().unwrap()
    })
}

#[tokio::test]
async fn a_querier_that_gives_up_for_one_cluster_has_none_of_the_others() {
    let text = "parallax: cluster \"us-1\" missing: sidecar:10901: connection refused";
    let hub = over(OverTwo { fails: Some(Status::aborted(text)) }).await;
    for uri in [UP, "/api/v1/labels"] {
        let (_, body) = hub.ask(uri).await;
        let [other, named] = states(&body);
        assert!(other == "partial" && named != "complete", "{body}");
        assert!(body["warnings"].to_string().contains("us-1"), "{body}");
    }
}

#[tokio::test]
async fn each_cluster_of_a_hub_that_nobody_declared_is_named_while_it_is_left_alone() {
    let hub = over(OverTwo { fails: None }).await;
    for reason in ["nothing came", "not asked: "] {
        let (_, body) = hub.ask(UP).await;
        assert_eq!(states(&body), ["late"; 2], "{body}");
        let parts = &body["coverage"]["clusters"][0]["parts"];
        assert!(parts.to_string().contains(reason), "{body}");
    }
    let (_, body) = hub.ask("/api/v1/query?query=up%7Bcluster%3D%22us-1%22%7D&time=1000").await;
    let named: Vec<&Value> =
        body["coverage"]["clusters"].as_array().unwrap().iter().map(|one| &one["cluster"]).collect();
    assert_eq!(named, ["us-1"], "{body}");
}
