//! Real connections on loopback: who is let in, what a refusal says, and that certificates change under load without a failed call.

mod access;
mod calls;
mod fixture;
mod handshakes;
mod http;
mod limits;
mod odd_servers;
mod trust;
mod turnover;
