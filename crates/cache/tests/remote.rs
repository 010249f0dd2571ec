//! Remote caches against the real memcached and Redis, and against servers that are down, hang or lie.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parallax_cache::{Backend, Cache};
use parallax_net::free_port;
use parallax_telemetry::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const TTL: Duration = Duration::from_secs(60);

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server on a port; `None`, said aloud, if it is not installed. In CI that is a failure.
fn start(name: &str, arguments: impl Fn(u16) -> Vec<String>) -> Option<(Program, u16)> {
    for _ in 0..5 {
        let port = free_port().unwrap();
        let spawned =
            Command::new(name).args(arguments(port)).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut program = match spawned {
            Ok(child) => Program(child),
            Err(error) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} is not installed: {error}");
                println!("LEFT OUT: {name} is not installed (tests/run installs it)");
                return None;
            }
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline && program.0.try_wait().unwrap().is_none() {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some((program, port));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    panic!("{name} did not start");
}

fn memcached() -> Option<(Program, u16)> {
    start("memcached", |port| {
        let text = format!("-l 127.0.0.1 -p {port} -U 0 -u nobody");
        text.split(' ').map(str::to_owned).collect()
    })
}

fn redis(password: &str) -> Option<(Program, u16)> {
    start("redis-server", |port| {
        let mut words: Vec<String> = format!("--bind 127.0.0.1 --port {port} --save --appendonly no")
            .split(' ')
            .map(str::to_owned)
            .collect();
        words.insert(5, String::new());
        if !password.is_empty() {
            words.extend(["--requirepass".to_owned(), password.to_owned()]);
        }
        words
    })
}

fn open(yaml: &str, metrics: &Metrics) -> Arc<dyn Cache> {
    parallax_cache::open(&Backend::from_yaml(yaml, &[]).unwrap(), "test", metrics)
}

/// Waits until what is written in the background can be read.
async fn put(cache: &dyn Cache, key: &str, value: &Bytes) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while get(cache, key).await.as_ref() != Some(value) {
        cache.set(key, value, TTL);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(Instant::now() < deadline, "{key} cannot be put");
    }
}

async fn get(cache: &dyn Cache, key: &str) -> Option<Bytes> {
    cache.get_multi(&[key.to_owned()]).await.pop().flatten()
}

/// What every remote cache has to do.
async fn works(yaml: &str) {
    let metrics = Metrics::new();
    let cache = open(yaml, &metrics);
    let cache = cache.as_ref();
    assert_eq!(get(cache, "absent").await, None);
    let long = "x".repeat(1000);
    for (key, value) in [
        ("plain", Bytes::from_static(b"value")),
        ("empty", Bytes::new()),
        ("line\r\nset evil 0 0 1\r\n", Bytes::from_static(b"of a key with a line's end")),
        (long.as_str(), Bytes::from_static(b"of a long key")),
        ("bytes", (0..=255).collect::<Vec<u8>>().into()),
        ("large", vec![7; 900_000].into()),
    ] {
        put(cache, key, &value).await;
        put(cache, key, &value).await;
    }
    for i in 0..500 {
        cache.set(&format!("many {i}"), &Bytes::from(format!("value {i}")), TTL);
    }
    put(cache, "last", &"done".into()).await;
    let keys: Vec<String> = (0..1000).map(|i| format!("many {i}")).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let found = cache.get_multi(&keys).await;
        assert_eq!(found.len(), 1000);
        for (i, value) in found.iter().enumerate() {
            assert!(
                value.is_none() || (i < 500 && *value == Some(format!("value {i}").into())),
                "{i}: {value:?}"
            );
        }
        if found.iter().flatten().count() == 500 {
            break;
        }
        assert!(Instant::now() < deadline, "{} of 500", found.iter().flatten().count());
    }
    assert!(cache.get_multi(&[]).await.is_empty());
    cache.set("short-lived", &"x".into(), Duration::ZERO);
    assert_eq!(get(cache, "short-lived").await, None);
    cache.set("too large", &vec![0; 20 << 20].into(), TTL);
    let text = metrics.encode().unwrap();
    assert!(text.contains("operation_skipped_total") && text.contains("max-item-size"), "{text}");
    assert!(!text.contains("reason=\"corrupt\""), "{text}");
}

#[tokio::test]
async fn memcached_remembers() {
    let Some((_one, first)) = memcached() else { return };
    let Some((_two, second)) = memcached() else { return };
    works(&format!(
        "type: MEMCACHED\nconfig: {{addresses: [\"127.0.0.1:{first}\", \"127.0.0.1:{second}\"], timeout: 5s}}"
    ))
    .await;
}

#[tokio::test]
async fn redis_remembers() {
    let Some((_redis, port)) = redis("") else { return };
    works(&format!("type: REDIS\nconfig: {{addr: \"127.0.0.1:{port}\", db: 3}}")).await;
}

#[tokio::test]
async fn redis_asks_for_its_password() {
    let Some((_redis, port)) = redis("hunter2") else { return };
    let yaml = |password: &str| {
        format!("type: REDIS\nconfig: {{addr: \"127.0.0.1:{port}\", password: \"{password}\"}}")
    };
    let right = open(&yaml("hunter2"), &Metrics::new());
    put(right.as_ref(), "k", &"v".into()).await;
    for password in ["", "wrong"] {
        let metrics = Metrics::new();
        assert_eq!(get(open(&yaml(password), &metrics).as_ref(), "k").await, None);
        assert!(metrics.encode().unwrap().contains("thanos_redis_operation_failures_total"));
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let Some((program, port)) = memcached() else { return };
    let yaml = format!("type: MEMCACHED\nconfig: {{addresses: [\"127.0.0.1:{port}\"], timeout: 1s}}");
    let cache = open(&yaml, &Metrics::new());
    put(cache.as_ref(), "k", &"v".into()).await;
    drop(program);
    assert_eq!(get(cache.as_ref(), "k").await, None);
    let words = format!("-l 127.0.0.1 -p {port} -U 0 -u nobody");
    let again = Command::new("memcached").args(words.split(' ')).spawn().unwrap();
    let _again = Program(again);
    put(cache.as_ref(), "k", &"v".into()).await;
}

/// A server that answers every request with `answer`, or never if it is empty.
async fn liar(answer: Vec<u8>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {
                    if !answer.is_empty() && stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_lies_is_a_miss() {
    let mut answers: Vec<Vec<u8>> = [
        "VALUE k 0 5\r\nwrong\r\nEND\r\n",
        "VALUE k 0 3\r\nlonger than three\r\nEND\r\n",
        "VALUE k 0 99999999999999999999\r\n",
        "VALUE k 0 4000000000\r\n",
        "VALUE other 0 1\r\nx\r\nEND\r\n",
        "VALUE k 0\r\n",
        "VALUE k 0 -1\r\n",
        "SERVER_ERROR out of memory\r\n",
        "END",
        "\r\n",
        "*1\r\n$5\r\nwrong\r\n",
        "*1\r\n$99999999999\r\n",
        "*1\r\n$-2\r\n",
        "*2\r\n$-1\r\n$-1\r\n",
        "*-1\r\n",
        "*1\r\n:7\r\n",
        "-ERR no\r\n",
        "$5\r\nwrong\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    answers.push(vec![0xff; 5000]);
    answers.push(vec![b'a'; 5000]);
    for answer in answers {
        let port = liar(answer.clone()).await;
        for yaml in [
            format!("type: MEMCACHED\nconfig: {{addresses: [\"127.0.0.1:{port}\"], timeout: 200ms}}"),
            format!(
                "type: REDIS\nconfig: {{addr: \"127.0.0.1:{port}\", dial_timeout: 200ms, read_timeout: 200ms, write_timeout: 200ms}}"
            ),
        ] {
            let metrics = Metrics::new();
            let cache = open(&yaml, &metrics);
            assert_eq!(get(cache.as_ref(), "k").await, None, "{:?}", String::from_utf8_lossy(&answer));
            assert!(
                metrics.encode().unwrap().contains("operation_failures_total{"),
                "{:?}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_is_down_costs_a_bounded_wait_and_is_then_left_alone() {
    let hanging = liar(Vec::new()).await;
    for (port, reason) in [(hanging, "timeout"), (free_port().unwrap(), "network-error")] {
        let yaml = format!("type: MEMCACHED\nconfig: {{addresses: [\"127.0.0.1:{port}\"], timeout: 50ms}}");
        let metrics = Metrics::new();
        let cache = open(&yaml, &metrics);
        for _ in 0..10 {
            assert_eq!(get(cache.as_ref(), "k").await, None);
        }
        let text = metrics.encode().unwrap();
        for reason in [reason, "circuit-breaker"] {
            let line = format!(
                "thanos_memcached_operation_failures_total{{name=\"test\",operation=\"getmulti\",reason=\"{reason}\"}} 5"
            );
            assert!(text.contains(&line), "{line} not in\n{text}");
        }
    }
}

#[tokio::test]
async fn writes_that_come_too_fast_are_dropped_and_counted() {
    let hanging = liar(Vec::new()).await;
    let yaml = format!(
        "type: MEMCACHED\nconfig: {{addresses: [\"127.0.0.1:{hanging}\"], timeout: 10s, max_async_buffer_size: 2, max_async_concurrency: 1}}"
    );
    let metrics = Metrics::new();
    let cache = open(&yaml, &metrics);
    for i in 0..100 {
        cache.set(&format!("k{i}"), &"v".into(), TTL);
    }
    let text = metrics.encode().unwrap();
    assert!(text.contains("reason=\"async-buffer-full\"} 9"), "{text}");
}
