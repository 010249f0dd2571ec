//! `pki rotate`: a CA in phases, each held back until what was observed allows it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use parallax_pki::authority::{RequestedAction, RotationRequest, RotationResult};
use parallax_pki::rotation::{Action, Blocked, Gates, decide, possible};
use parallax_pki::{Authority, Hierarchy, PeerIdentity};
use serde_json::json;

use super::{days, days_arg, open, passphrase, peers, print, state_arg, text, texts};

pub(super) fn cli() -> Command {
    let ca = Command::new("ca")
        .about("One step of replacing a CA; without --phase, where it stands and what is missing")
        .args([state_arg(), passphrase::file_arg(), peers::peers_arg()])
        .args([
            Arg::new("hierarchy")
                .required(true)
                .value_parser(["observers", "observees"])
                .help("Which CA: of the observers' client certificates, or of the observees' server certificates"),
            Arg::new("phase")
                .long("phase")
                .default_value("status")
                .value_parser(["prepare", "activate", "drain", "retire", "abort", "compromised", "status"])
                .help("prepare: publish a new CA; activate: sign with it; drain: all leaves are of it; retire: drop the old one"),
            Arg::new("accept-missing")
                .long("accept-missing")
                .action(ArgAction::Append)
                .value_name("ROLE/NAME")
                .help("Do not wait for this peer, such as observee/eu-1; needs --reason"),
            Arg::new("reason").long("reason").value_name("TEXT").help("Why, for the journal"),
            Arg::new("generation")
                .long("generation")
                .value_parser(clap::value_parser!(u32).range(1..))
                .help("Which generation is compromised (default: the one that signs)"),
            Arg::new("key-alg").long("key-alg").default_value("p256").help("Key of the new CA: p256 or p384"),
            days_arg("ca-days", "730", 7300, "Days until the new CA expires"),
        ]);
    Command::new("rotate")
        .about("Replace a CA without anybody noticing")
        .subcommand_required(true)
        .subcommand(ca)
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<u8> {
    let Some(("ca", matches)) = matches.subcommand() else { bail!("rotate what? `pki rotate ca`") };
    let authority = open(matches)?;
    let hierarchy = match text(matches, "hierarchy").as_deref() {
        Some("observers") => Hierarchy::Observers,
        _ => Hierarchy::Observees,
    };
    let problems = match text(matches, "peers") {
        Some(file) => peers::look(&authority, &file)?.1,
        None => Vec::new(),
    };
    for problem in &problems {
        eprintln!("not seen: {problem}");
    }
    let waived = waived(matches, &authority)?;
    let reason = text(matches, "reason");
    if !waived.is_empty() && reason.is_none() {
        bail!("--accept-missing needs a --reason, which goes to the journal");
    }
    let action = match text(matches, "phase").as_deref() {
        Some("prepare") => RequestedAction::Prepare,
        Some("activate") => RequestedAction::Activate,
        Some("drain") => RequestedAction::Drain,
        Some("retire") => RequestedAction::Retire,
        Some("abort") => RequestedAction::Abort,
        Some("compromised") => RequestedAction::Compromised(matches.get_one::<u32>("generation").copied()),
        _ => return status(matches, &authority, hierarchy, &waived),
    };
    let request = RotationRequest {
        reason,
        lifetime: days(matches, "ca-days"),
        key: text(matches, "key-alg").unwrap_or_default().parse()?,
        ..RotationRequest::new(hierarchy, action)
    };
    let now = SystemTime::now();
    let observations = authority.observations()?;
    let evidence = |ledger: &parallax_pki::Ledger| observations.evidence(ledger, hierarchy, &waived, now);
    let result = authority.rotate(&request, evidence, Some(observations.digest()), now)?;
    let printed = json!({
        "hierarchy": hierarchy,
        "before": result.before,
        "after": result.after,
        "undelivered": authority.undelivered(),
    });
    print(matches, &printed, || told(hierarchy, result, &authority))?;
    Ok(0)
}

fn waived(matches: &ArgMatches, authority: &Authority) -> anyhow::Result<BTreeSet<String>> {
    texts(matches, "accept-missing")
        .iter()
        .map(|peer| {
            let identity: PeerIdentity = format!("spiffe://{}/{peer}", authority.trust_domain())
                .parse()
                .with_context(|| format!("--accept-missing={peer}: write it as observee/eu-1"))?;
            Ok(identity.to_string())
        })
        .collect()
}

fn told(hierarchy: Hierarchy, result: RotationResult, authority: &Authority) -> String {
    use parallax_pki::rotation::Phase;
    let name = hierarchy.as_str();
    let mut text = if result.before == result.after {
        format!("{name}: {} already", result.after)
    } else {
        format!("{name}: {} -> {}", result.before, result.after)
    };
    let next = match result.after {
        Phase::Steady { .. } => {
            "carry the bundle (pki bundle) to peers that are not in directories of this state"
        }
        Phase::Prepared { .. } => {
            "the new bundle is in all directories known here; carry it to the others, then: --phase activate --peers FILE"
        }
        Phase::Activated { .. } => {
            "now: pki renew --all; when the leaves are in use: --phase drain --peers FILE"
        }
        Phase::Draining { .. } => "when the old connections are gone: --phase retire --peers FILE",
    };
    text.push_str(&format!("\nnext: {next}"));
    for problem in authority.undelivered() {
        text.push_str(&format!("\nnot delivered: {problem}"));
    }
    text
}

/// What the next step waits for.
fn status(
    matches: &ArgMatches,
    authority: &Authority,
    hierarchy: Hierarchy,
    waived: &BTreeSet<String>,
) -> anyhow::Result<u8> {
    let ledger = authority.ledger();
    let phase = ledger.phase(hierarchy).context("there is no such CA")?;
    let evidence = authority.observations()?.evidence(&ledger, hierarchy, waived, SystemTime::now());
    let mut steps = Vec::new();
    for action in [Action::Activate, Action::Drain, Action::Retire] {
        match decide(phase, action, &evidence, Gates::ALL) {
            Ok(next) if next != phase => steps.push(json!({"step": action.as_str(), "waits_for": []})),
            Err(Blocked::Unmet(unmet)) => steps.push(json!({"step": action.as_str(), "waits_for": unmet})),
            _ => {}
        }
    }
    let printed =
        json!({"hierarchy": hierarchy, "state": phase, "possible": possible(phase), "steps": steps});
    print(matches, &printed, || {
        let mut text = format!("{}: {phase}; possible: {}", hierarchy.as_str(), possible(phase));
        for step in &steps {
            let waits = step["waits_for"].as_array().map(Vec::as_slice).unwrap_or_default();
            text.push_str(&format!("\n{}: ", step["step"].as_str().unwrap_or_default()));
            text.push_str(if waits.is_empty() { "nothing is in the way" } else { "waits for" });
            for unmet in waits {
                let word = |key: &str| unmet[key].as_str().unwrap_or_default();
                text.push_str(&format!("\n  {}: {}", word("peer"), word("reason")));
            }
        }
        text
    })?;
    Ok(0)
}
