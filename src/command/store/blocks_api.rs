//! `/api/v1/blocks`: which blocks the gateway serves, in the shape of Thanos' block viewer.
//!
//! `view=loaded` is the list of this gateway. Without it Thanos gives the list of a whole bucket, which its store does not fill; ours gives the same
//! empty list. Source: Thanos `pkg/api/blocks/v1.go`. A block's `meta.json` is shown as far as a gateway keeps it: names of files, parents and
//! rewrites are not.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parallax_block::KeptMeta as _;
use parallax_store_gateway::StoreGateway;
use serde::Deserialize;

/// Thanos' zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Clone)]
struct Api {
    gateway: Arc<StoreGateway>,
    label: Arc<str>,
}

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    view: String,
}

/// `label` is what viewers group blocks by.
pub fn router(gateway: Arc<StoreGateway>, label: String) -> Router {
    let api = Api { gateway, label: label.into() };
    Router::new().route("/api/v1/blocks", get(blocks)).with_state(api)
}

async fn blocks(State(api): State<Api>, Query(params): Query<Params>) -> Response {
    // Tens of thousands of blocks take a while to write.
    match tokio::task::spawn_blocking(move || write(&api, &params)).await {
        Ok(Ok(json)) => ([("content-type", "application/json")], json).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// One block after the other: all at once as metas would take many times the memory.
fn write(api: &Api, params: &Params) -> serde_json::Result<Vec<u8>> {
    let loaded = (params.view == "loaded").then(|| api.gateway.loaded());
    let mut json = b"{\"status\":\"success\",\"data\":{\"label\":".to_vec();
    serde_json::to_writer(&mut json, &*api.label)?;
    json.extend_from_slice(b",\"blocks\":[");
    for (index, block) in loaded.iter().flat_map(|loaded| &loaded.blocks).enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, block.to_meta().as_ref())?;
    }
    let refreshed_ms = loaded.as_ref().map_or(0, |loaded| loaded.refreshed_ms);
    let refreshed = jiff::Timestamp::from_millisecond(refreshed_ms).ok().filter(|_| refreshed_ms > 0);
    json.extend_from_slice(b"],\"refreshedAt\":");
    serde_json::to_writer(&mut json, &refreshed.map_or_else(|| NEVER.to_owned(), |time| time.to_string()))?;
    json.extend_from_slice(b",\"err\":");
    serde_json::to_writer(&mut json, &loaded.and_then(|loaded| loaded.error))?;
    json.extend_from_slice(b"}}");
    Ok(json)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use parallax_bucket::BucketConfig;
    use parallax_net::Context;
    use parallax_store_gateway::StoreGatewayConfig;
    use serde_json::Value;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_blocks_that_are_served_are_shown_as_thanos_shows_them() {
        let bucket = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short");
        let (data, context) = (tempfile::tempdir().unwrap(), Context::for_test());
        let config = StoreGatewayConfig::new(BucketConfig::filesystem(&bucket), data.path());
        let gateway = StoreGateway::start(config, context.clone()).await.unwrap();
        gateway.sync().await.unwrap();
        let api = Api { gateway, label: "cluster".into() };
        let ask = |view: &str| -> Value {
            serde_json::from_slice(&write(&api, &Params { view: view.to_owned() }).unwrap()).unwrap()
        };
        let loaded = ask("loaded");
        assert_eq!((&loaded["status"], &loaded["data"]["label"]), (&"success".into(), &"cluster".into()));
        assert!(loaded["data"]["err"].is_null());
        assert_ne!(loaded["data"]["refreshedAt"], NEVER);
        let blocks = loaded["data"]["blocks"].as_array().unwrap();
        assert_eq!(blocks.len(), std::fs::read_dir(&bucket).unwrap().count());
        for block in blocks {
            let path = bucket.join(block["ulid"].as_str().unwrap()).join("meta.json");
            let whole: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            for field in ["ulid", "minTime", "maxTime", "version", "compaction"] {
                assert_eq!(block[field], whole[field], "{field}");
            }
            for field in ["numSamples", "numSeries", "numChunks"] {
                assert_eq!(block["stats"][field], whole["stats"][field], "{field}");
            }
            for field in ["labels", "downsample", "source"] {
                assert_eq!(block["thanos"][field], whole["thanos"][field], "{field}");
            }
        }
        let global = ask("");
        assert_eq!(global["data"]["blocks"], serde_json::json!([]));
        assert_eq!(global["data"]["refreshedAt"], NEVER);
        context.shutdown.cancel();
    }
}
