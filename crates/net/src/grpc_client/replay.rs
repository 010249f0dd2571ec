//! Remembers a request while it is sent, so that it can be sent again if its connection goes away before the answer begins.
//!
//! Invariants: the body passes through frame by frame, never held back (a call that streams both ways works); what is remembered is bounded, and a
//! request that outgrows the bound is sent once; only the newest sending reads from the body. Every call of this mesh reads, so repeating one is safe.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;

/// Requests are matchers and ranges; a larger one is sent once.
const MAX_REMEMBERED_BYTES: usize = 256 << 10;

/// A request that can be sent more than once.
pub(super) struct Replayable {
    head: http::request::Parts,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    body: Body,
    remembered: Vec<Bytes>,
    remembered_bytes: usize,
    /// Something passed that was not remembered.
    spoilt: bool,
    ended: bool,
    /// Number of the sending that may read.
    sending: usize,
}

impl Replayable {
    pub(super) fn new(request: http::Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        let shared = Shared {
            body,
            remembered: Vec::new(),
            remembered_bytes: 0,
            spoilt: false,
            ended: false,
            sending: 0,
        };
        Self { head, shared: Arc::new(Mutex::new(shared)) }
    }

    /// The request from its beginning, or `None` if what was sent of it is not known any more. Former sendings end with an error.
    pub(super) fn next(&self) -> Option<http::Request<Body>> {
        let mut shared = lock(&self.shared);
        if shared.spoilt {
            return None;
        }
        shared.sending += 1;
        let body = Sending { shared: Arc::clone(&self.shared), number: shared.sending, position: 0 };
        // `Body::new` asks whether the body has ended, which takes the lock.
        drop(shared);
        Some(http::Request::from_parts(self.head.clone(), Body::new(body)))
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Sending {
    shared: Arc<Mutex<Shared>>,
    number: usize,
    /// How many of the remembered pieces were sent this time.
    position: usize,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let mut shared = lock(&this.shared);
        if this.number != shared.sending {
            return Poll::Ready(Some(Err(Status::cancelled("the request is being sent again"))));
        }
        if let Some(piece) = shared.remembered.get(this.position) {
            this.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut shared.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data)
                    if shared.remembered_bytes + data.len() <= MAX_REMEMBERED_BYTES && !shared.spoilt =>
                {
                    shared.remembered_bytes += data.len();
                    shared.remembered.push(data.clone());
                    this.position += 1;
                }
                _ => {
                    shared.spoilt = true;
                    shared.remembered.clear();
                    this.position = 0;
                }
            },
            Poll::Ready(Some(Err(_))) => shared.spoilt = true,
            Poll::Ready(None) => shared.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        self.number == shared.sending
            && self.position >= shared.remembered.len()
            && (shared.ended || shared.body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn request(bytes: &'static [u8]) -> http::Request<Body> {
        http::Request::builder()
            .uri("http://a/b")
            .body(Body::new(Full::new(Bytes::from_static(bytes))))
            .unwrap()
    }

    #[tokio::test]
    async fn a_request_is_the_same_each_time_wherever_the_first_sending_stopped() {
        let replayable = Replayable::new(request(b"matchers"));
        let unread = replayable.next().unwrap();
        let second = replayable.next().unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(second, "matchers");
        assert!(unread.into_body().collect().await.is_err());
        let third = replayable.next().unwrap();
        assert_eq!(third.uri(), "http://a/b");
        assert_eq!(third.into_body().collect().await.unwrap().to_bytes(), "matchers");
    }

    #[tokio::test]
    async fn a_request_that_outgrows_the_bound_is_sent_once() {
        let large: &'static [u8] = vec![7_u8; MAX_REMEMBERED_BYTES + 1].leak();
        let replayable = Replayable::new(request(large));
        let sent = replayable.next().unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(sent.len(), large.len());
        assert!(replayable.next().is_none());
    }
}
