//! Connections of clients: dialling a name that has several addresses, and a stream that is plain or TLS.
//!
//! Whoever speaks HTTP or gRPC (the net crate, the bucket crate) dials through here, so that an address that does not answer costs all
//! of them the same. Whom to trust, and how long to wait, is the caller's.

#![forbid(unsafe_code)]

mod dial;
mod stream;

pub use dial::{DialError, STAGGER, dial};
pub use stream::ClientStream;
