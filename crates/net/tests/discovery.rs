//! Names looked up at a small DNS server on loopback.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use parallax_net::discovery::{DnsName, Resolver, Target};
use tokio::net::UdpSocket;

/// Type and data of one record.
type Record = (u16, Vec<u8>);

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// How long they hold in seconds, and what they are.
type Answers = (u32, Vec<Record>);

/// Answers from a table of names; a name that is not there does not exist.
#[derive(Clone, Default)]
struct Zone {
    records: Arc<Mutex<HashMap<String, Answers>>>,
    asked: Arc<Mutex<usize>>,
}

impl Zone {
    fn set(&self, name: &str, ttl: u32, records: Vec<Record>) {
        self.records.lock().unwrap().insert(name.to_owned(), (ttl, records));
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    async fn serve(&self) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = socket.local_addr().unwrap();
        let zone = self.clone();
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut query).await {
                *zone.asked.lock().unwrap() += 1;
                let _ = socket.send_to(&zone.answer(&query[..length]), peer).await;
            }
        });
        Resolver::with_server(address)
    }

    /// RFC 1035, section 4: the question comes back, and each record's name points at it.
    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let (name, end) = question(query);
        let kind = u16::from_be_bytes([query[end], query[end + 1]]);
        let records = self.records.lock().unwrap();
        let found = records.get(&name);
        let (ttl, of_kind): (u32, Vec<&Record>) = match found {
            Some((ttl, all)) => (*ttl, all.iter().filter(|(of, _)| *of == kind).collect()),
            None => (0, Vec::new()),
        };
        let mut answer = query[..2].to_vec();
        // A response, authoritative; 3 is "no such name".
        answer.extend([0x84, if found.is_some() { 0 } else { 3 }, 0, 1]);
        answer.extend(u16::try_from(of_kind.len()).unwrap().to_be_bytes());
        answer.extend([0, 0, 0, 0]);
        answer.extend(&query[12..end + 4]);
        for (kind, data) in of_kind {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend(data);
        }
        answer
    }
}

/// The name that is asked for, in small letters, and where it ends.
fn question(query: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(query[at]);
        at += 1;
        if length == 0 {
            return (labels.join("."), at);
        }
        labels.push(String::from_utf8_lossy(&query[at..at + length]).to_lowercase());
        at += length;
    }
}

fn a(last: u8) -> Record {
    (A, Ipv4Addr::new(10, 0, 0, last).octets().to_vec())
}

fn srv(port: u16, host: &str) -> Record {
    let mut data = vec![0, 1, 0, 1];
    data.extend(port.to_be_bytes());
    for label in host.split('.') {
        data.push(u8::try_from(label.len()).unwrap());
        data.extend(label.as_bytes());
    }
    data.push(0);
    (SRV, data)
}

fn name(text: &str) -> DnsName {
    text.parse().unwrap()
}

fn addresses(targets: &[Target]) -> Vec<&str> {
    targets.iter().map(|target| target.address.as_str()).collect()
}

#[tokio::test]
async fn addresses_come_with_the_port_of_the_name_and_for_as_long_as_their_ttl() {
    let zone = Zone::default();
    let v6 = (AAAA, [[0x20, 1], [0xd, 0xb8], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 1]].concat());
    zone.set("eu.test", 60, vec![a(2), a(1), v6]);
    let resolver = zone.serve().await;
    let began = Instant::now();
    let found = resolver.look_up(&name("dns+eu.test:10901")).await.unwrap();
    assert_eq!(addresses(&found.targets), ["10.0.0.1:10901", "10.0.0.2:10901", "[2001:db8::1]:10901"]);
    assert!(found.targets.iter().all(|target| target.host == "eu.test"), "certificates are for the name");
    let holds = found.valid_until.saturating_duration_since(began);
    assert!(holds > Duration::from_secs(30) && holds <= Duration::from_secs(61), "{holds:?}");
}

#[tokio::test]
async fn services_come_with_their_ports_or_the_one_that_is_given() {
    let zone = Zone::default();
    zone.set("_grpc._tcp.eu.test", 60, vec![srv(7001, "one.test"), srv(7002, "two.test")]);
    zone.set("one.test", 60, vec![a(1)]);
    zone.set("two.test", 60, vec![a(2), a(3)]);
    let resolver = zone.serve().await;
    let found = resolver.look_up(&name("dnssrv+_grpc._tcp.eu.test")).await.unwrap();
    assert_eq!(addresses(&found.targets), ["10.0.0.1:7001", "10.0.0.2:7002", "10.0.0.3:7002"]);
    assert_eq!(found.targets[0].host, "one.test");
    let found = resolver.look_up(&name("dnssrv+_grpc._tcp.eu.test:9")).await.unwrap();
    assert_eq!(addresses(&found.targets), ["10.0.0.1:9", "10.0.0.2:9", "10.0.0.3:9"]);
    let found = resolver.look_up(&name("dnssrvnoa+_grpc._tcp.eu.test")).await.unwrap();
    assert_eq!(addresses(&found.targets), ["one.test:7001", "two.test:7002"]);
}

#[tokio::test]
async fn a_service_whose_host_is_unknown_leaves_the_others() {
    let zone = Zone::default();
    zone.set("_grpc._tcp.eu.test", 60, vec![srv(7001, "one.test"), srv(7002, "gone.test")]);
    zone.set("one.test", 60, vec![a(1)]);
    let resolver = zone.serve().await;
    let found = resolver.look_up(&name("dnssrv+_grpc._tcp.eu.test")).await.unwrap();
    assert_eq!(addresses(&found.targets), ["10.0.0.1:7001"]);
}

#[tokio::test]
async fn no_such_name_and_no_address_are_errors_that_name_it() {
    let zone = Zone::default();
    zone.set("empty.test", 60, vec![]);
    let resolver = zone.serve().await;
    for text in ["dns+gone.test:1", "dns+empty.test:1", "dnssrv+gone.test", "dnssrvnoa+empty.test"] {
        let error = resolver.look_up(&name(text)).await.unwrap_err();
        assert!(error.contains(&name(text).host), "{text}: {error}");
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_again_when_its_ttl_is_over_and_not_before() {
    let zone = Zone::default();
    zone.set("eu.test", 1, vec![a(1)]);
    let resolver = zone.serve().await;
    resolver.look_up(&name("dns+eu.test:1")).await.unwrap();
    let first = zone.asked();
    zone.set("eu.test", 1, vec![a(2)]);
    let give_up = Instant::now() + Duration::from_secs(120);
    loop {
        let found = resolver.look_up(&name("dns+eu.test:1")).await.unwrap();
        if addresses(&found.targets) == ["10.0.0.2:1"] {
            break;
        }
        assert!(Instant::now() < give_up, "the old answer stays for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(zone.asked() > first);
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_a_bounded_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = Resolver::with_server(silent.local_addr().unwrap());
    let name = name("dns+eu.test:1");
    let looking = resolver.look_up(&name);
    let error = tokio::time::timeout(Duration::from_secs(120), looking).await.unwrap().unwrap_err();
    assert!(error.contains("eu.test"), "{error}");
}
