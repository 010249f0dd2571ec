//! The HTTP API: what is left to do, what was set aside, and a way to have it tried again.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::compactor::Compactor;
use crate::pass::{PassReport, Progress};
use crate::quarantine::{BlockSetAside, SetAside};

#[derive(Debug, Serialize)]
struct Status {
    todo: Progress,
    last_pass: Option<PassReport>,
    quarantine: Vec<SetAside>,
    /// Blocks that cannot be downsampled.
    quarantined_blocks: Vec<BlockSetAside>,
    /// Blocks that were read and gave nothing to downsample.
    nothing_to_downsample: Vec<BlockSetAside>,
}

#[derive(Debug, Deserialize)]
struct Retry {
    group: Option<String>,
}

#[derive(Debug, Serialize)]
struct Released {
    released: usize,
}

impl Compactor {
    /// `GET /api/v1/compactor`, and `POST /api/v1/compactor/retry?group=<key>` (all groups without one).
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/api/v1/compactor", get(status))
            .route("/api/v1/compactor/retry", post(retry))
            .with_state(Arc::clone(self))
    }
}

async fn status(State(compactor): State<Arc<Compactor>>) -> Json<Status> {
    Json(Status {
        todo: compactor.progress(),
        last_pass: compactor.last_pass(),
        quarantine: compactor.quarantine().list(),
        quarantined_blocks: compactor.quarantine().list_blocks(),
        nothing_to_downsample: compactor.quarantine().list_barren(),
    })
}

async fn retry(State(compactor): State<Arc<Compactor>>, Query(retry): Query<Retry>) -> Json<Released> {
    Json(Released { released: compactor.quarantine().release(retry.group.as_deref()) })
}
