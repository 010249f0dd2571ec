//! The body of an answer, watched for the status that ends it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use super::{Call, code_of};

impl Call {
    /// Counts the call by the status of `response`, as soon as it has one.
    pub(crate) fn watch(mut self, response: http::Response<Body>) -> http::Response<Body> {
        if let Some(code) = code_of(response.headers()) {
            self.ended(code);
            return response;
        }
        if response.body().is_end_stream() {
            self.ended(Code::Unknown);
            return response;
        }
        response.map(|body| Body::new(Watched { body, call: self }))
    }
}

struct Watched {
    body: Body,
    call: Call,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.ended(code_of(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.ended(status.code()),
            // An end without a status.
            Poll::Ready(None) => self.call.ended(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
