//! The sidecar: one read of everything, through ours and through Thanos', from the same Prometheus, in the same run.
//!
//! `SPEED_SIDECAR_SERIES` (100000) series of one metric over two hours. Prometheus is reached through a relay of this process, which knows when
//! the first byte of its answer came; what is taken is the time from there to the first frame out of the sidecar. CPU time is the sidecar's
//! own, and so is the peak of its memory. Both are asked by the same client in this process, which only counts what it gets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use parallax_model::Matcher;
use parallax_net::GrpcTarget;
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::{Store as _, StoreClient, matchers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Request;

use crate::Options;
use crate::component::Component;
use crate::data::{self, START_MS, Shape};
use crate::measure::{Table, cpu_ms, median, memory_mib, millis, reset_peak};

/// How long a sidecar is left alone before its idle memory is read.
const IDLE: Duration = Duration::from_secs(3);
/// How many series a frame holds, at most; what Thanos' querier asks for.
const BATCH: i64 = 64;
const BUFFER_BYTES: usize = 64 << 10;

struct Contender {
    name: &'static str,
    sidecar: Component,
    client: StoreClient<parallax_net::GrpcChannel>,
    idle_mib: f64,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy, Default)]
struct Round {
    series: usize,
    megabytes: f64,
    /// From Prometheus' first byte.
    first_frame_ms: f64,
    all_ms: f64,
    cpu_ms: f64,
    peak_mib: f64,
}

pub async fn run(options: &Options, series: usize, dir: &Path) -> anyhow::Result<()> {
    let Some(program) = &options.prometheus else {
        println!("left out: the sidecar (PROMETHEUS_BIN names no Prometheus)\n");
        return Ok(());
    };
    let shape = Shape { series, hours: 2 };
    let bucket = data::requests(shape, dir)?;
    let prometheus = Component::prometheus(program, &bucket, &[]).await?;
    let relay = Relay::start(prometheus.http.parse()?).await?;
    let mut contenders = vec![contender("Parallax", &options.parallax, &relay).await?];
    if let Some(thanos) = &options.thanos {
        contenders.push(contender("Thanos", thanos, &relay).await?);
    }
    // One round to warm up.
    for round in 0..=options.rounds {
        for turn in 0..contenders.len() {
            let index = (turn + round) % contenders.len();
            let measured = ask(&contenders[index], &relay, shape).await?;
            ensure!(measured.series == series, "{}: {} series", contenders[index].name, measured.series);
            if round > 0 {
                contenders[index].rounds.push(measured);
            }
        }
    }
    print(&contenders, shape)
}

async fn contender(name: &'static str, program: &Path, relay: &Relay) -> anyhow::Result<Contender> {
    let sidecar = Component::sidecar(program, &format!("http://{}", relay.address)).await?;
    let client = StoreClient::new(parallax_net::connect(&GrpcTarget::plain(&sidecar.grpc))?);
    tokio::time::sleep(IDLE).await;
    let idle_mib = memory_mib(sidecar.id(), "VmRSS")?;
    Ok(Contender { name, sidecar, client, idle_mib, rounds: Vec::new() })
}

async fn ask(contender: &Contender, relay: &Relay, shape: Shape) -> anyhow::Result<Round> {
    let request = SeriesRequest {
        min_time: START_MS,
        max_time: shape.end_ms(),
        matchers: matchers::to_wire(&[Matcher::equal("__name__", "http_requests_total")]),
        response_batch_size: BATCH,
        ..SeriesRequest::default()
    };
    let process = contender.sidecar.id();
    reset_peak(process);
    relay.forget();
    let (cpu_before, began) = (cpu_ms(process)?, Instant::now());
    let mut stream = contender.client.series(Request::new(request)).await?;
    let mut round = Round::default();
    let mut first_frame = None;
    while let Some(frame) = stream.next().await {
        first_frame.get_or_insert_with(Instant::now);
        let all = match frame?.result {
            Some(Frame::Series(series)) => vec![series],
            Some(Frame::Batch(batch)) => batch.series,
            _ => Vec::new(),
        };
        round.series += all.len();
        let chunks = all.iter().flat_map(|series| &series.chunks).filter_map(|chunk| chunk.raw.as_ref());
        round.megabytes += chunks.map(|chunk| chunk.data.len()).sum::<usize>() as f64 / 1e6;
    }
    round.all_ms = millis(began.elapsed());
    let first_byte = relay.first_byte().context("prometheus was not asked")?;
    round.first_frame_ms =
        millis(first_frame.context("no frame came")?.saturating_duration_since(first_byte));
    round.cpu_ms = cpu_ms(process)? - cpu_before;
    round.peak_mib = memory_mib(process, "VmHWM")?;
    Ok(round)
}

fn print(contenders: &[Contender], shape: Shape) -> anyhow::Result<()> {
    let of = |contender: &Contender, value: fn(&Round) -> f64| {
        median(&contender.rounds.iter().map(value).collect::<Vec<_>>())
    };
    let our_cpu_ms = contenders.first().map_or(0.0, |ours| of(ours, |round| round.cpu_ms));
    let mut table = Table::new(
        &format!("Sidecar: one read of {} series x {} h x 15 s", shape.series, shape.hours),
        &[
            "sidecar",
            "MB of chunks",
            "first frame after Prometheus' first byte, ms",
            "all ms",
            "CPU ms",
            "CPU, times Parallax",
            "peak MiB",
            "idle MiB",
        ],
    );
    for contender in contenders {
        let cpu_ms = of(contender, |round| round.cpu_ms);
        // The most of all rounds: a bound is a bound.
        let peak_mib = contender.rounds.iter().map(|round| round.peak_mib).fold(0.0, f64::max);
        table.row(&[
            contender.name.to_owned(),
            format!("{:.0}", of(contender, |round| round.megabytes)),
            format!("{:.1}", of(contender, |round| round.first_frame_ms)),
            format!("{:.0}", of(contender, |round| round.all_ms)),
            format!("{cpu_ms:.0}"),
            format!("{:.2}", cpu_ms / our_cpu_ms),
            format!("{peak_mib:.0}"),
            format!("{:.0}", contender.idle_mib),
        ]);
    }
    table.print();
    Ok(())
}

/// Hands bytes to and fro, and remembers when the first byte came in answer to a remote read.
struct Relay {
    address: SocketAddr,
    read: Arc<Mutex<Read>>,
}

#[derive(Clone, Copy, Default)]
struct Read {
    was_asked: bool,
    first_byte: Option<Instant>,
}

impl Relay {
    async fn start(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, read) = (listener.local_addr()?, Arc::<Mutex<Read>>::default());
        let shared = Arc::clone(&read);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let read = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(to).await {
                        relay(client, server, &read).await;
                    }
                });
            }
        });
        Ok(Self { address, read })
    }

    fn forget(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Read::default();
    }

    fn first_byte(&self) -> Option<Instant> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).first_byte
    }
}

async fn relay(client: TcpStream, server: TcpStream, read: &Mutex<Read>) {
    // A relay that waits for more bytes would delay what it measures.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            if buffer[..length].windows(17).any(|part| part == b"POST /api/v1/read") {
                read.lock().unwrap_or_else(PoisonError::into_inner).was_asked = true;
            }
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            {
                let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                if read.was_asked
                    && read.first_byte.is_none()
                    && buffer[..length].starts_with(b"HTTP/1.1 200")
                {
                    read.first_byte = Some(Instant::now());
                }
            }
            if to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(up, down);
}
