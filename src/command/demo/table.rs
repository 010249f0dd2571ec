//! What a person sees while the demo runs: the URLs, then a live table of clusters and what they cover.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use parallax_simulate::stand_in::now_ms;

use super::questions::{MACHINES_UP, Question, ask};
use super::start::Mesh;

const REFRESH: Duration = Duration::from_secs(2);

/// Shows the mesh until it is dropped.
pub async fn show(mesh: &Mesh) -> anyhow::Result<()> {
    println!("\n  Prometheus API (add it to Grafana as a Prometheus data source): {}", mesh.url);
    println!("  stores and coverage: {}/api/v1/stores", mesh.url);
    println!("  directory with configurations, certificates and logs: {}", mesh.layout.directory.display());
    for (cluster, pid) in mesh.layout.clusters.iter().zip(&mesh.observee_pids) {
        println!("  to lose cluster {}: kill {pid}", cluster.name);
    }
    println!("  Ctrl-C ends everything\n");
    let live = std::io::stdout().is_terminal();
    let mut shown_lines = 0;
    let mut last = String::new();
    loop {
        let (table, took) = table(mesh).await;
        // A terminal sees every refresh in place; a log sees only what changed.
        if live {
            if shown_lines > 0 {
                print!("\x1b[{shown_lines}A\x1b[J");
            }
            let text = format!("{table}  answered in {:.0} ms\n", took.as_secs_f64() * 1000.0);
            shown_lines = text.lines().count();
            print!("{text}");
        } else if table != last {
            print!("{table}");
            last = table;
        }
        std::io::stdout().flush()?;
        tokio::time::sleep(REFRESH).await;
    }
}

async fn table(mesh: &Mesh) -> (String, Duration) {
    let started = Instant::now();
    let fresh = ask(&mesh.http, &Question::instant(MACHINES_UP, now_ms(), true)).await;
    let took = started.elapsed();
    let old = ask(&mesh.http, &Question::instant(MACHINES_UP, mesh.history.min_ms + 1_800_000, true)).await;
    let mut text = format!("  {:<10} {:>12} {:>12}\n", "cluster", "fresh", "history");
    let cell = |answer: &anyhow::Result<super::questions::Answer>, cluster: &super::layout::ClusterLayout| {
        match answer {
            Err(_) => "error".to_owned(),
            Ok(answer) => match answer.by_cluster.get(&cluster.name).and_then(|values| values.first()) {
                Some(up) => format!("{up}/{} up", cluster.instances),
                None => "missing".to_owned(),
            },
        }
    };
    for cluster in &mesh.layout.clusters {
        text.push_str(&format!(
            "  {:<10} {:>12} {:>12}\n",
            cluster.name,
            cell(&fresh, cluster),
            cell(&old, cluster)
        ));
    }
    match &fresh {
        Ok(answer) => {
            answer.warnings.iter().for_each(|warning| text.push_str(&format!("  warning: {warning}\n")))
        }
        Err(error) => text.push_str(&format!("  error: {error:#}\n")),
    }
    (text, took)
}
