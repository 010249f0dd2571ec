//! `parallax sidecar` as a whole: the arguments that it is really given, and what a bucket looks like after it was killed.

#[path = "sidecar/crashes.rs"]
mod crashes;
#[path = "sidecar/operator.rs"]
mod operator;
#[path = "sidecar/read_back.rs"]
mod read_back;
#[path = "sidecar/s3.rs"]
mod s3;
#[path = "sidecar/shipping.rs"]
mod shipping;
#[path = "sidecar/world.rs"]
pub mod world;
