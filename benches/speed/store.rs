//! The StoreAPI: one client, Thanos', reads the same answers from our store gateway and from Thanos'.

use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::Options;
use crate::component::Component;
use crate::data::START_MS;
use crate::measure::{Table, median, memory_mib};
use crate::peer::Peer;

struct Target {
    name: &'static str,
    process: u32,
    client: Peer,
}

pub async fn run(options: &Options, bucket: &Path) -> anyhow::Result<()> {
    let ours = Component::store(&options.parallax, bucket, &[]).await?;
    let (theirs, address) = Peer::store(&options.peers, bucket)?;
    let real = match &options.thanos {
        Some(thanos) => Some(Component::store(thanos, bucket, &[]).await?),
        None => None,
    };
    let target = |name, process, address: &str| -> anyhow::Result<Target> {
        Ok(Target { name, process, client: Peer::series(&options.peers, address, &[])? })
    };
    let mut targets =
        vec![target("Parallax", ours.id(), &ours.grpc)?, target("Thanos (peers)", theirs.id(), &address)?];
    if let Some(real) = &real {
        targets.push(target("Thanos (binary)", real.id(), &real.grpc)?);
    }
    let mut table = Table::new(
        &format!("Series calls, {} series x {} h, Thanos' client", options.shape.series, options.shape.hours),
        &["request", "store", "series", "MB", "first frame ms", "all ms", "series/s", "times Parallax"],
    );
    for (name, request) in requests(options) {
        measure(options, name, &request, &mut targets, &mut table)?;
    }
    table.print();
    let mut memory = Table::new("Peak memory of the stores after these calls", &["store", "MiB"]);
    for target in &targets {
        memory.row(&[target.name.to_owned(), format!("{:.0}", memory_mib(target.process, "VmHWM")?)]);
    }
    memory.print();
    Ok(())
}

fn requests(options: &Options) -> Vec<(&'static str, Value)> {
    let matcher = |kind: &str, name: &str, value: &str| json!({"type": kind, "name": name, "value": value});
    let all = json!({
        "min_ms": START_MS, "max_ms": options.shape.end_ms(), "batch_size": 64, "count_only": true, "abort": true,
        "matchers": [matcher("EQ", "__name__", "http_requests_total")],
    });
    let with = |name: &str, value: Value| {
        let mut request = all.clone();
        request[name] = value;
        request
    };
    let one_in_ten =
        json!(
            [matcher("EQ", "__name__", "http_requests_total"), matcher("RE", "instance", "host-.*3:9100"),]
        );
    let one_host = json!([
        matcher("EQ", "__name__", "http_requests_total"),
        matcher("EQ", "instance", "host-00042:9100"),
    ]);
    vec![
        ("all, batches of 64", all.clone()),
        ("all, a frame per series", with("batch_size", json!(0))),
        ("all, labels only", with("skip_chunks", json!(true))),
        ("one in ten, by regex", with("matchers", one_in_ten)),
        ("one host", with("matchers", one_host)),
    ]
}

fn measure(
    options: &Options,
    name: &str,
    request: &Value,
    targets: &mut [Target],
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut rounds: Vec<Vec<Value>> = targets.iter().map(|_| Vec::new()).collect();
    // One round to warm up.
    for round in 0..=options.rounds {
        for turn in 0..targets.len() {
            let index = (turn + round) % targets.len();
            let answer = targets[index].client.ask(request)?;
            ensure!(answer["error"].is_null(), "{}: {}", targets[index].name, answer["error"]);
            if round > 0 {
                rounds[index].push(answer["counts"].clone());
            }
        }
    }
    let number = |counts: &[Value], field: &str| {
        median(&counts.iter().map(|counts| counts[field].as_f64().unwrap_or(f64::NAN)).collect::<Vec<_>>())
    };
    let our_ms = number(&rounds[0], "took_ms");
    for (target, counts) in targets.iter().zip(&rounds) {
        let (series, took_ms) = (number(counts, "series"), number(counts, "took_ms"));
        ensure!(series == number(&rounds[0], "series"), "{name}: {} gives other series", target.name);
        table.row(&[
            name.to_owned(),
            target.name.to_owned(),
            format!("{series}"),
            format!("{:.1}", number(counts, "bytes") / 1e6),
            format!("{:.2}", number(counts, "first_ms")),
            format!("{took_ms:.1}"),
            format!("{:.0}", series / took_ms * 1e3),
            format!("{:.2}", took_ms / our_ms),
        ]);
    }
    Ok(())
}
