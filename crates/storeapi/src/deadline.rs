//! When a call has to be over: the `grpc-timeout` of a request as an instant.
//!
//! A deadline travels as an absolute instant inside a process (a request extension) and as the time left on the wire (gRPC's
//! `grpc-timeout` header). It covers the whole stream; whoever serves a stream carries the instant into it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::time::Sleep;
use tonic::{Request, Status};

use crate::FrameStream;

/// The request extension that holds the instant while a request stays in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline(Instant);

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// Most digits of a `grpc-timeout`, by the gRPC specification.
const MAX_TIMEOUT_DIGITS: usize = 8;

/// The instant by which the answer has to be complete, or `None` if the caller set no limit.
///
/// A header counts from now, so call this first. A malformed header is no limit, as in other gRPC implementations.
pub fn deadline_of<T>(request: &Request<T>) -> Option<Instant> {
    if let Some(Deadline(instant)) = request.extensions().get::<Deadline>() {
        return Some(*instant);
    }
    let header = request.metadata().get(TIMEOUT_HEADER)?.to_str().ok()?;
    Instant::now().checked_add(parse_timeout(header)?)
}

/// Sets the deadline of `request`, for a callee in this process and for one on the wire.
pub fn set_deadline<T>(request: &mut Request<T>, deadline: Instant) {
    request.extensions_mut().insert(Deadline(deadline));
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// A request with a deadline.
pub fn with_deadline<T>(message: T, deadline: Option<Instant>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        set_deadline(&mut request, deadline);
    }
    request
}

/// Waits for an answer until the deadline, if there is one.
///
/// # Errors
/// What the call answers, or `DeadlineExceeded`; the call is dropped then.
pub async fn by<T>(
    deadline: Option<Instant>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        None => call.await,
        Some(deadline) => {
            tokio::time::timeout_at(deadline.into(), call).await.unwrap_or_else(|_| Err(exceeded()))
        }
    }
}

/// Ends a stream with `DeadlineExceeded` at the deadline, and drops it then.
pub fn until<T: 'static>(stream: FrameStream<T>, deadline: Option<Instant>) -> FrameStream<T> {
    match deadline {
        None => stream,
        Some(deadline) => Box::pin(Until { stream: Some(stream), deadline, sleep: None }),
    }
}

fn exceeded() -> Status {
    Status::deadline_exceeded("the deadline of the request has passed")
}

struct Until<T> {
    stream: Option<FrameStream<T>>,
    deadline: Instant,
    /// Once the stream has been waited for: one that is there already needs no timer.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<T> Until<T> {
    fn is_over(&mut self, context: &mut Context<'_>, is_waited_for: bool) -> bool {
        if !is_waited_for {
            return Instant::now() >= self.deadline;
        }
        let deadline = self.deadline;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        sleep.as_mut().poll(context).is_ready()
    }
}

impl<T> Stream for Until<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        let polled = stream.as_mut().poll_next(context);
        if matches!(polled, Poll::Ready(None)) {
            this.stream = None;
        } else if this.is_over(context, polled.is_pending()) {
            this.stream = None;
            return Poll::Ready(Some(Err(exceeded())));
        }
        polled
    }
}

/// Up to eight digits and a unit, `H M S m u n`.
fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_TIMEOUT_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_follow_the_specification() {
        assert_eq!(parse_timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "5", "S", "-1S", "1.5S", "123456789S", "1s", "5\u{e9}"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_deadline_is_exact_in_process_and_a_timeout_on_the_wire() {
        let deadline = Instant::now() + Duration::from_secs(30);
        let request = with_deadline((), Some(deadline));
        assert_eq!(deadline_of(&request), Some(deadline));

        let mut wire = Request::new(());
        *wire.metadata_mut() = request.metadata().clone();
        let received = deadline_of(&wire).unwrap();
        assert!(received <= deadline + Duration::from_secs(30) && received > Instant::now());
        assert_eq!(deadline_of(&Request::new(())), None);
    }

    #[tokio::test]
    async fn a_stream_that_hangs_ends_at_its_deadline() {
        use futures::StreamExt;
        let frames = futures::stream::iter([Ok(crate::frames::warning("one"))]);
        let hung: FrameStream<_> = Box::pin(frames.chain(futures::stream::pending()));
        let items: Vec<_> = until(hung, Some(Instant::now() + Duration::from_millis(20))).collect().await;
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_call_that_hangs_ends_at_its_deadline() {
        let deadline = Some(Instant::now() + Duration::from_millis(20));
        let error = by(deadline, std::future::pending::<Result<(), Status>>()).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    }
}
