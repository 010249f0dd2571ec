//! Ports for programs that are told theirs before they start.
//!
//! On Linux, a port is reserved from the moment it is given until the process that asked for it ends: by a socket in the abstract namespace whose
//! name is the port's. So two processes that look at the same time are never given the same one, however long it takes until a program listens there.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The first port that is tried; those below belong to well-known services.
const LOWEST: u16 = 10_000;
/// Where the kernel starts to take ports for connections, where it does not say so.
const USUAL_EPHEMERAL: u16 = 32_768;
const ATTEMPTS: u32 = 256;

/// Holds a port's name.
#[cfg(target_os = "linux")]
type Name = std::os::unix::net::UnixDatagram;
#[cfg(not(target_os = "linux"))]
type Name = ();

/// What holds the ports of this process. It is of the process, as the ports are.
static RESERVED: Mutex<Vec<Name>> = Mutex::new(Vec::new());

/// A TCP port of the loopback interface that was free a moment ago, and that nothing else is about to take: it is not one
/// of those that the kernel gives to connections and to listeners without a wish, and nobody who asks here is given it again
/// while this process lives.
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
        match reserve(port) {
            Ok(name) => {
                RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                return Ok(port);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
}

/// Takes a port's name, and only then looks whether the port is free: who had it before may have begun to listen meanwhile.
fn reserve(port: u16) -> io::Result<Name> {
    let name = take_name(port)?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    Ok(name)
}

#[cfg(target_os = "linux")]
fn take_name(port: u16) -> io::Result<Name> {
    use std::os::linux::net::SocketAddrExt as _;

    let address = std::os::unix::net::SocketAddr::from_abstract_name(format!("parallax-port-{port}"))?;
    Name::bind_addr(&address)
}

/// There is no such namespace: another process starts to look elsewhere, which has to do.
#[cfg(not(target_os = "linux"))]
fn take_name(_: u16) -> io::Result<Name> {
    Ok(())
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_that_was_given_is_reserved_though_nobody_listens_there_yet() {
        let port = free_port().unwrap();
        drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        assert_eq!(reserve(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
