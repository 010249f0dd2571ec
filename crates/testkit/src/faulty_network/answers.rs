//! An ingress with weather: single answers in pieces, ended as if they were whole, reset, held back, or replaced by a page that is no gRPC.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use tokio::time::Sleep;
use tonic::service::Routes;
use tower::util::MapResponseLayer;

use super::{Pace, State, Weather};

/// Of a hundred answers in a storm: are pages, …
const PAGES: u64 = 7;
/// …end too early without a status, …
const ENDED: u64 = 14;
/// …are reset, …
const RESET: u64 = 12;
/// …are held back for ever, …
const HELD: u64 = 7;
/// …and are slow.
const SLOW: u64 = 20;

/// Those that ingresses give; hyper takes the last two for a regular end.
const REASONS: [h2::Reason; 5] = [
    h2::Reason::INTERNAL_ERROR,
    h2::Reason::REFUSED_STREAM,
    h2::Reason::ENHANCE_YOUR_CALM,
    h2::Reason::CANCEL,
    h2::Reason::NO_ERROR,
];

/// What an ingress says instead of an answer.
const PAGE_STATUSES: [StatusCode; 4] =
    [StatusCode::OK, StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];

/// What happens to an answer once its pace has run out, at the latest before its status.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Nothing does.
    Pass,
    /// The stream ends as if it were whole, but for its status.
    End,
    Reset(h2::Reason),
    Hold,
}

pub(super) fn weathered(routes: Routes, state: Arc<State>) -> Routes {
    let weather = move |response: Response<Body>| pass(response, &state);
    Routes::from(routes.into_axum_router().layer(MapResponseLayer::new(weather)))
}

fn pass(response: Response<Body>, state: &Arc<State>) -> Response<Body> {
    let sky = *state.sky.borrow();
    let number = state.answers.fetch_add(1, Ordering::Relaxed);
    let mut row = state.rows.row(2).row(sky.number).row(number);
    let (pace, then) = match sky.weather {
        Weather::Calm => return response,
        Weather::Slow => (Pace::slow(&mut row), Then::Pass),
        Weather::Storm => {
            let drawn = row.below(100);
            let (ended, reset) = (PAGES + ENDED, PAGES + ENDED + RESET);
            if drawn < PAGES {
                state.count();
                return page(*row.pick(&PAGE_STATUSES));
            } else if drawn < ended {
                (Pace::until(&mut row), Then::End)
            } else if drawn < reset {
                let reason = *row.pick(&REASONS);
                (Pace::until(&mut row), Then::Reset(reason))
            } else if drawn < reset + HELD {
                (Pace::until(&mut row), Then::Hold)
            } else if drawn < reset + HELD + SLOW {
                (Pace::slow(&mut row), Then::Pass)
            } else {
                return response;
            }
        }
    };
    let state = Arc::clone(state);
    response.map(|inner| {
        Body::new(Weathered {
            inner,
            pace,
            then,
            pending: Bytes::new(),
            pause: None,
            has_ended: false,
            state,
        })
    })
}

fn page(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from("<html><title>Bad weather</title></html>"));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

struct Weathered {
    inner: Body,
    pace: Pace,
    then: Then,
    /// Has come and did not pass yet.
    pending: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
    state: Arc<State>,
}

type Passed = Poll<Option<Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>>>;

impl Weathered {
    fn strike(&mut self) -> Passed {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.state.count();
        }
        match self.then {
            Then::Pass | Then::End => Poll::Ready(None),
            Then::Reset(reason) => Poll::Ready(Some(Err(h2::Error::from(reason).into()))),
            // Whoever gives up drops it.
            Then::Hold => Poll::Pending,
        }
    }
}

impl HttpBody for Weathered {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Passed {
        let this = &mut *self;
        loop {
            if this.has_ended {
                return this.strike();
            }
            if let Some(pause) = &mut this.pause {
                futures::ready!(pause.as_mut().poll(context));
                this.pause = None;
            }
            if !this.pending.is_empty() {
                let most = this.pace.piece_bytes.min(this.pace.left_bytes).min(this.pending.len());
                if most == 0 {
                    return this.strike();
                }
                let piece = this.pending.split_to(most);
                this.pace.left_bytes = this.pace.left_bytes.saturating_sub(most);
                this.pause = this.pace.pause.map(|pause| Box::pin(tokio::time::sleep(pause)));
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match futures::ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.pending = data,
                    Err(trailers) if matches!(this.then, Then::Pass) => {
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                    Err(_) => return this.strike(),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None if matches!(this.then, Then::Pass) => return Poll::Ready(None),
                None => return this.strike(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn every_fate_has_its_share() {
        let all = PAGES + ENDED + RESET + HELD + SLOW;
        assert!(all < 100, "something has to pass: {all}");
        let mut row = Seeded::new(1);
        let drawn: std::collections::BTreeSet<u64> = (0..2000).map(|_| row.below(100)).collect();
        assert_eq!(drawn.len(), 100);
    }
}
