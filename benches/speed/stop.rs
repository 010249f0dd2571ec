//! How much work is still done for a query whose client has gone, and for one whose time is up.
//!
//! What is told is CPU time of store and querier together, which other programs on the machine do not lengthen: within 100 ms two cores can use 200 ms.

use std::path::Path;
use std::time::Duration;

use crate::Options;
use crate::contender::{Contender, Question};
use crate::measure::{Table, median};
use crate::query::settle;

const WANTED_MS: f64 = 100.0;

/// `took_ms` is what an answer takes when nobody disturbs it.
pub async fn run(options: &Options, bucket: &Path, question: &Question, took_ms: f64) -> anyhow::Result<()> {
    // The query is well under way by then, and far from its end.
    let given_up_after = Duration::from_secs_f64(took_ms / 2e3);
    let mut parallax = [Contender::parallax(options, bucket).await?];
    parallax[0].ask(question).await?;
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let (mut gone, mut late) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        settle(&parallax).await?;
        // To drop the question closes its connection.
        if let Ok(answer) = tokio::time::timeout(given_up_after, parallax[0].time(question)).await {
            let took = answer?;
            println!(
                "left out: what is done after a query has ended, for this one was answered in {took:?}\n"
            );
            return Ok(());
        }
        let left = parallax[0].cpu_ms()?;
        settle(&parallax).await?;
        gone.push(parallax[0].cpu_ms()? - left);
        let took = parallax[0].time_of_timeout(question, given_up_after).await?;
        let answered = parallax[0].cpu_ms()?;
        settle(&parallax).await?;
        late.push((took.as_secs_f64() * 1e3, parallax[0].cpu_ms()? - answered));
    }
    let mut table = Table::new(
        &format!("Work after its end, `{}`", question.query),
        &["what", "wanted at most", "measured", "met"],
    );
    let mut row = |what: &str, wanted_ms: f64, measured_ms: f64| {
        let met = if measured_ms <= wanted_ms { "yes" } else { "no" };
        let ms = |ms: f64| format!("{ms:.0} ms");
        table.row(&[what.to_owned(), ms(wanted_ms), ms(measured_ms), met.to_owned()]);
    };
    let worst = |all: &mut dyn Iterator<Item = f64>| all.fold(0.0, f64::max);
    row(
        "CPU time of both processes after the client has gone, most",
        WANTED_MS * cores,
        worst(&mut gone.iter().copied()),
    );
    let overdue: Vec<f64> =
        late.iter().map(|(took_ms, _)| took_ms - given_up_after.as_secs_f64() * 1e3).collect();
    row("answer after `timeout` has passed, median", WANTED_MS, median(&overdue));
    let after = worst(&mut late.iter().map(|(_, cpu_ms)| *cpu_ms));
    row("CPU time of both processes after that answer, most", WANTED_MS * cores, after);
    table.print();
    Ok(())
}
