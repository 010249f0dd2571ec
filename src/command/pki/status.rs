//! `pki status`: the whole mesh in one table.

use std::time::{Duration, SystemTime};

use clap::{Arg, ArgMatches, Command};
use parallax_pki::inventory::{Inventory, Thresholds, Urgency};

use super::{columns, days_arg, open, print, state_arg, text};

pub(super) fn cli() -> Command {
    Command::new("status")
        .about("Every CA and leaf: where, until when, what it trusts, when it was seen; exit code 4 or 5 if something ends soon")
        .args([
            state_arg(),
            days_arg("warn-days", "7", 3650, "Exit code 4 if something ends within so many days"),
            days_arg("critical-days", "2", 3650, "Exit code 5 if something ends within so many days"),
            Arg::new("metrics-file")
                .long("metrics-file")
                .value_name("FILE")
                .help("Also write Prometheus metrics, for the node exporter's textfile collector"),
        ])
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let thresholds = Thresholds {
        warn: super::days(matches, "warn-days"),
        critical: super::days(matches, "critical-days"),
    };
    let inventory = Inventory::of(&authority, thresholds, SystemTime::now())?;
    if let Some(file) = text(matches, "metrics-file") {
        write_metrics(&file, &metrics(&inventory))?;
    }
    print(matches, &inventory, || table(&inventory))?;
    Ok(match inventory.urgency {
        Urgency::Fine => 0,
        Urgency::Due => super::DUE,
        Urgency::Critical => super::CRITICAL,
    })
}

fn table(inventory: &Inventory) -> String {
    let mark = |urgency: Urgency| match urgency {
        Urgency::Fine => "",
        Urgency::Due => "due",
        Urgency::Critical => "CRITICAL",
    };
    let mut rows: Vec<Vec<String>> = inventory
        .authorities
        .iter()
        .map(|row| {
            vec![
                "ca".to_owned(),
                row.hierarchy.as_str().to_owned(),
                format!("g{}", row.generation),
                row.not_after.clone(),
                format!("{}d", row.days_left),
                String::new(),
                format!("{}, key {}", row.status, row.key),
                String::new(),
                String::new(),
                mark(row.urgency).to_owned(),
            ]
        })
        .collect();
    rows.extend(inventory.leaves.iter().map(|row| {
        vec![
            row.role.to_owned(),
            row.name.clone(),
            format!("g{}", row.generation),
            row.not_after.clone(),
            format!("{}d", row.days_left),
            row.renew_at.clone(),
            row.home.clone().unwrap_or_else(|| "handed over".to_owned()),
            row.bundle.to_owned(),
            row.trusts.clone().unwrap_or_else(|| "not seen".to_owned()),
            mark(row.urgency).to_owned(),
        ]
    }));
    let heads =
        ["ROLE", "NAME", "GEN", "UNTIL", "LEFT", "RENEW AT", "WHERE", "BUNDLE", "SEEN TO TRUST", "URGENCY"];
    let mut text = columns(&heads, &rows);
    text.push('\n');
    for row in &inventory.rotations {
        text.push_str(&format!(
            "\nrotation of {}: {} since {}",
            row.hierarchy.as_str(),
            row.phase,
            row.since
        ));
    }
    for problem in &inventory.undelivered {
        text.push_str(&format!("\nnot delivered: {problem}"));
    }
    text.push_str(&format!("\njournal head: {}", inventory.journal_head));
    text
}

fn metrics(inventory: &Inventory) -> String {
    let mut text = String::from(
        "# HELP parallax_pki_rotation_phase 0 steady, 1 prepared, 2 activated, 3 draining\n# TYPE parallax_pki_rotation_phase gauge\n",
    );
    for row in &inventory.rotations {
        text.push_str(&format!(
            "parallax_pki_rotation_phase{{hierarchy=\"{}\"}} {}\n",
            row.hierarchy.as_str(),
            row.number
        ));
    }
    text.push_str(
        "# HELP parallax_pki_not_after_timestamp_seconds When a CA or leaf of the inventory ends\n# TYPE parallax_pki_not_after_timestamp_seconds gauge\n",
    );
    let seconds = |time: &str| time.parse::<jiff::Timestamp>().map_or(0, |time| time.as_second());
    for row in inventory.authorities.iter().filter(|row| row.status != "retired") {
        text.push_str(&format!(
            "parallax_pki_not_after_timestamp_seconds{{role=\"ca\",name=\"{}\",generation=\"{}\"}} {}\n",
            row.hierarchy.as_str(),
            row.generation,
            seconds(&row.not_after)
        ));
    }
    for row in &inventory.leaves {
        text.push_str(&format!(
            "parallax_pki_not_after_timestamp_seconds{{role=\"{}\",name=\"{}\",generation=\"{}\",serial=\"{}\"}} {}\n",
            row.role,
            row.name,
            row.generation,
            row.serial,
            seconds(&row.not_after)
        ));
    }
    text
}

/// Beside its place and renamed: the collector must not read half a file.
fn write_metrics(file: &str, text: &str) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let sibling = format!("{file}.tmp");
    std::fs::write(&sibling, text)
        .and_then(|()| std::fs::rename(&sibling, file))
        .with_context(|| format!("--metrics-file={file}"))
}

/// Longest wait for a peer that is looked at.
pub(super) const PEER_TIMEOUT: Duration = Duration::from_secs(10);
