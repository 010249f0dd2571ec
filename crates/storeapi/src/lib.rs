//! Thanos' gRPC protocol in our own words: generated code, the Store trait, client, server.
//!
//! Protobuf packages, messages, fields and numbers are Thanos', so either side of a connection may be Thanos. Everything here works
//! on the wire form, whose text and data are `Bytes`; conversion to `model` happens where somebody reads.
#![forbid(unsafe_code)]

mod begun;
pub mod caller;
pub mod chunks;
mod client;
pub mod codec;
pub mod conformance;
pub mod deadline;
mod decoded;
pub mod encoded;
mod error;
pub mod frames;
mod held;
pub mod labels;
pub mod matchers;
mod message_limits;
mod methods;
pub mod proto;
mod resort;
mod server;
mod shard;
mod side;
mod store;
pub mod wire;
pub mod withhold;

pub use async_trait::async_trait;
pub use begun::Begun;
pub use caller::{Caller, Guard, Hold, TENANT_HEADER};
pub use client::StoreClient;
pub use deadline::{deadline_of, set_deadline, with_deadline};
pub use error::Error;
pub use message_limits::{MAX_REQUEST_BYTES, MessageLimits};
pub use methods::METHODS;
pub use resort::{Resorter, resort};
pub use server::{MAX_MESSAGE_SIZE_BYTES, ReflectionError, guarded_routes, routes};
pub use shard::ShardMatcher;
pub use side::{NoSideServices, SideFrame, SideRequest, SideService, SideServices};
pub use store::{FrameStream, SeriesStream, Store};
