//! Ports for programs that are told theirs before they start.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first port that is tried; those below belong to well-known services.
const LOWEST: u16 = 10_000;
/// Where the kernel starts to take ports for connections, where it does not say so.
const USUAL_EPHEMERAL: u16 = 32_768;
const ATTEMPTS: u32 = 256;

/// A TCP port of the loopback interface that was free a moment ago, and that nothing else is about to take: it is not one
/// of those that the kernel gives to connections and to listeners without a wish, this process is not given it twice, and
/// another process starts to look elsewhere.
///
/// # Errors
/// If no port is free.
pub fn free_port() -> io::Result<u16> {
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(RandomState::new().hash_one(0_u8) as u32));
    let count = u32::from(ephemeral_start().saturating_sub(LOWEST).max(1));
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = LOWEST.saturating_add(u16::try_from(offset).unwrap_or(u16::MAX));
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
}

/// The first port of the range that Linux gives to connections.
fn ephemeral_start() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let start = range.split_ascii_whitespace().next().and_then(|start| start.parse().ok());
    // Where everything is given to connections, no port is safe, and any is as good.
    start.filter(|start| *start > LOWEST).unwrap_or(USUAL_EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_none_of_those_for_connections() {
        let given: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        let different: std::collections::BTreeSet<u16> = given.iter().copied().collect();
        assert_eq!(different.len(), given.len());
        assert!(given.iter().all(|port| (LOWEST..ephemeral_start()).contains(port)), "{given:?}");
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port().unwrap())).unwrap();
        for _ in 0..20 {
            assert_ne!(free_port().unwrap(), taken.local_addr().unwrap().port());
        }
    }
}
