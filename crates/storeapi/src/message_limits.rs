//! How large a message may be that somebody else sends: the bound on what one frame can make us hold.
//!
//! A message that announces more is refused before any of it is stored. gRPC itself allows 2 GiB.

use tonic::{Code, Status};

/// Largest request: matchers, ranges, hints.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;

/// What a client takes from an endpoint, in bytes of one encoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// A frame of a Series answer: one series, or a batch of them.
    pub frame_bytes: usize,
    /// An Info answer: label sets and time ranges.
    pub info_bytes: usize,
    /// The names or values of labels, all in one message.
    pub labels_bytes: usize,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self { frame_bytes: 64 << 20, info_bytes: 8 << 20, labels_bytes: 64 << 20 }
    }
}

/// Words a refusal for size as what it is; any other status stays.
pub(crate) fn explain(status: Status, what: &str, raise: &str) -> Status {
    let Some(sizes) = status.message().strip_prefix("Error, decoded message length too large: found ") else {
        return status;
    };
    if status.code() != Code::OutOfRange {
        return status;
    }
    let sizes = sizes.replace(" bytes, the limit is: ", " bytes, and at most ");
    Status::resource_exhausted(format!("{what} is too large: it has {sizes} are taken; {raise}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_for_size_is_worded_anew() {
        let refused = Status::out_of_range(
            "Error, decoded message length too large: found 900 bytes, the limit is: 10 bytes",
        );
        let explained = explain(refused, "a frame", "raise it");
        assert_eq!(explained.code(), Code::ResourceExhausted);
        assert_eq!(
            explained.message(),
            "a frame is too large: it has 900 bytes, and at most 10 bytes are taken; raise it"
        );
        assert_eq!(explain(Status::out_of_range("end"), "a frame", "").message(), "end");
    }
}
