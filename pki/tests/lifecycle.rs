//! Revocation and rotation through the authority: what is refused, what is written down, what a state on disk goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use parallax_pki::authority::{Home, RenewPolicy, RequestedAction, RotationRequest, RotationResult};
use parallax_pki::bundle::TrustBundle;
use parallax_pki::certificate::parse_bundle;
use parallax_pki::inventory::{Inventory, Thresholds, Urgency};
use parallax_pki::ledger::Ledger;
use parallax_pki::observations::{PeerObservation, unix_millis};
use parallax_pki::rotation::{Phase, Seen};
use parallax_pki::{
    Authority, AuthorityOptions, Error, Hierarchy, LeafRequest, PeerIdentity, RevocationReason, TrustDomain,
};

const DAY: Duration = Duration::from_secs(86_400);
const EES: Hierarchy = Hierarchy::Observees;

fn options() -> AuthorityOptions {
    AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap())
}

fn request(authority: &Authority, text: &str) -> LeafRequest {
    let identity: PeerIdentity = format!("spiffe://{}/{text}", authority.trust_domain()).parse().unwrap();
    LeafRequest::new(identity)
}

fn rotate(authority: &Authority, action: RequestedAction) -> Result<RotationResult, Error> {
    rotate_waiving(authority, action, &[], None)
}

fn rotate_waiving(
    authority: &Authority,
    action: RequestedAction,
    waived: &[&str],
    reason: Option<&str>,
) -> Result<RotationResult, Error> {
    let observations = authority.observations().unwrap();
    let waived: BTreeSet<String> =
        waived.iter().map(|text| format!("spiffe://{}/{text}", authority.trust_domain())).collect();
    let request = RotationRequest { reason: reason.map(str::to_owned), ..RotationRequest::new(EES, action) };
    let now = SystemTime::now();
    let evidence = |ledger: &Ledger| observations.evidence(ledger, EES, &waived, now);
    authority.rotate(&request, evidence, Some(observations.digest()), now)
}

/// A moment that is later than everything that was done before, by the clock of journals and observations: a fast machine does much in a millisecond.
fn later_ms() -> u64 {
    let before = unix_millis(SystemTime::now());
    loop {
        let now = unix_millis(SystemTime::now());
        if now > before {
            return now;
        }
        std::thread::yield_now();
    }
}

/// The hub is seen with this trust in observees, and with connections of these generations.
fn see_hub(authority: &Authority, trusts: &[u32], connections: &[u32]) {
    let at_ms = later_ms();
    let seen = |what: &[u32]| BTreeMap::from([(EES, Seen { at_ms, what: what.iter().copied().collect() })]);
    let observation = PeerObservation { trusts: seen(trusts), shows: None, connections: seen(connections) };
    authority
        .observe(BTreeMap::from([("spiffe://mesh.example/observer/hub".to_owned(), observation)]))
        .unwrap();
}

fn see_leaf(authority: &Authority, identity: &str, serial: &str) {
    let shows = Seen { at_ms: later_ms(), what: BTreeSet::from([serial.to_owned()]) };
    let observation = PeerObservation { shows: Some(shows), ..PeerObservation::default() };
    authority.observe(BTreeMap::from([(identity.to_owned(), observation)])).unwrap();
}

fn unmet(result: Result<RotationResult, Error>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::GateNotMet { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_rotation_waits_for_what_is_seen_and_survives_restarts_between_steps() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    Authority::init(&state, &options()).unwrap();
    let open = || Authority::open(&state).unwrap();
    let authority = open();
    let now = SystemTime::now();
    let leaf = authority.issue_to(&request(&authority, "observee/eu-1"), &Home::State, now).unwrap();
    authority.issue_to(&request(&authority, "observer/hub"), &Home::State, now).unwrap();
    let hub_bundle = || fs::read_to_string(state.join("leaves/observer/hub/ca.crt")).unwrap();
    let one = hub_bundle();

    rotate(&open(), RequestedAction::Prepare).unwrap();
    assert_eq!(parse_bundle("hub", &hub_bundle()).unwrap().len(), 2, "the bundle was not carried to the hub");
    let waits = unmet(rotate(&open(), RequestedAction::Activate));
    assert!(waits.contains("observer/hub") && waits.contains("not seen"), "{waits}");
    see_hub(&open(), &[1], &[]);
    assert!(unmet(rotate(&open(), RequestedAction::Activate)).contains("not to trust g2"));
    see_hub(&open(), &[1, 2], &[]);
    rotate(&open(), RequestedAction::Activate).unwrap();

    assert!(unmet(rotate(&open(), RequestedAction::Drain)).contains("run `pki renew`"));
    let renewed = open().renew(|_| true, RenewPolicy::default(), SystemTime::now()).unwrap();
    assert_eq!(renewed.len(), 1, "only the leaf of the rotated hierarchy is due: {renewed:?}");
    let identity = leaf.identity.to_string();
    see_leaf(&open(), &identity, &leaf.serial);
    assert!(unmet(rotate(&open(), RequestedAction::Drain)).contains("still shows"));
    see_leaf(&open(), &identity, &renewed[0].serial);
    // What was seen of connections was seen before.
    later_ms();
    rotate(&open(), RequestedAction::Drain).unwrap();

    assert!(rotate(&open(), RequestedAction::Retire).is_err(), "connections were not looked at since");
    see_hub(&open(), &[1, 2], &[1, 2]);
    assert!(unmet(rotate(&open(), RequestedAction::Retire)).contains("open connections"));
    see_hub(&open(), &[1, 2], &[2]);
    assert_eq!(rotate(&open(), RequestedAction::Retire).unwrap().after, Phase::Steady { signing: 2 });
    assert_ne!(hub_bundle(), one);
    assert_eq!(parse_bundle("hub", &hub_bundle()).unwrap().len(), 1);
}

#[test]
fn bad_input_16_steps_out_of_order_change_nothing() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let authority = Authority::init(&state, &options()).unwrap();
    let journal = || fs::read_to_string(state.join("journal.jsonl")).unwrap();
    let refused = |action| {
        let before = journal();
        let text = unmet(rotate(&authority, action));
        assert_eq!(journal(), before, "{action:?} changed the state");
        text
    };
    for action in
        [RequestedAction::Retire, RequestedAction::Activate, RequestedAction::Drain, RequestedAction::Abort]
    {
        assert!(refused(action).contains("possible now: prepare"), "{action:?}");
    }
    rotate(&authority, RequestedAction::Prepare).unwrap();
    let prepared = journal();
    rotate(&authority, RequestedAction::Prepare).unwrap();
    assert_eq!(journal(), prepared, "the second prepare did something");
    assert!(refused(RequestedAction::Retire).contains("possible now: activate, abort"));
    rotate(&authority, RequestedAction::Activate).unwrap();
    let activated = journal();
    rotate(&authority, RequestedAction::Activate).unwrap();
    assert_eq!(journal(), activated, "the second activate did something");
    assert!(refused(RequestedAction::Prepare).contains("a rotation is open"));
    // Two operators: the second finds the lock.
    let held = fs::File::open(state.join("LOCK")).unwrap();
    held.lock().unwrap();
    assert!(matches!(rotate(&authority, RequestedAction::Drain), Err(Error::StateLocked(_))));
}

#[test]
fn a_peer_is_waived_only_with_a_reason_that_the_journal_keeps() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let authority = Authority::init(&state, &options()).unwrap();
    let now = SystemTime::now();
    authority.issue_to(&request(&authority, "observer/hub"), &Home::State, now).unwrap();
    rotate(&authority, RequestedAction::Prepare).unwrap();
    let waive = |reason| rotate_waiving(&authority, RequestedAction::Activate, &["observer/hub"], reason);
    assert!(unmet(waive(None)).contains("--reason"));
    waive(Some("the hub is being rebuilt")).unwrap();
    let journal = fs::read_to_string(state.join("journal.jsonl")).unwrap();
    assert!(
        journal.contains("the hub is being rebuilt") && journal.contains("\"waived\":[\"spiffe"),
        "{journal}"
    );
}

#[test]
fn a_compromised_ca_leaves_the_bundles_at_once_and_all_its_leaves_are_due() {
    let authority = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    let old = authority.issue_observee("eu-1", &[]).unwrap();
    let before = authority.bundle_pem(EES);
    let result = rotate(&authority, RequestedAction::Compromised(None)).unwrap();
    assert_eq!(result.after, Phase::Steady { signing: 2 });
    assert!(!authority.bundle_pem(EES).contains(before.trim()));
    let new = authority.issue_observee("eu-1", &[]).unwrap();
    let judged = |leaf: &str| {
        let chain = parse_bundle("leaf", leaf).unwrap();
        let name = rustls_pki_types::ServerName::try_from("eu-1.mesh.example").unwrap();
        parallax_pki::Material::judge_server(
            &authority.bundle_pem(EES),
            &chain,
            &name,
            &parallax_pki::ExpectedServer::Name,
            SystemTime::now(),
        )
        .unwrap()
    };
    assert!(judged(&old.cert_pem).is_err());
    judged(&new.cert_pem).unwrap();
}

#[test]
fn bad_input_12_and_13_lists_of_others_and_serials_of_others_do_not_count() {
    let (mesh, other) = (0, 1);
    let authorities = [mesh, other].map(|_| Authority::in_memory(&options(), SystemTime::now()).unwrap());
    let [mesh, other] = &authorities;
    let leaf = mesh.issue_observer("hub").unwrap();
    let foreign = other.issue_observer("hub").unwrap();
    other.revoke("all", |_| true, RevocationReason::Unspecified, SystemTime::now()).unwrap();
    let list = other.revocation_list(Hierarchy::Observers, 1).unwrap();
    let error = TrustBundle::parse("bundle", &format!("{}{list}", mesh.bundle_pem(Hierarchy::Observers)))
        .unwrap_err();
    assert!(error.to_string().contains("none of the CAs"), "{error}");
    // The foreign list beside its own CA: it revokes the foreign leaf, and no other.
    let both = format!("{}{}", mesh.bundle_pem(Hierarchy::Observers), other.bundle_pem(Hierarchy::Observers));
    let judged = |pem: &str| {
        let chain = parse_bundle("leaf", pem).unwrap();
        parallax_pki::Material::judge_client(&both, &chain, SystemTime::now()).unwrap()
    };
    judged(&leaf.cert_pem).unwrap();
    assert_eq!(judged(&foreign.cert_pem).unwrap_err().reason, parallax_pki::FailureReason::Revoked);
    // An overdue list revokes still.
    let late = SystemTime::now() + 31 * DAY;
    let chain = parse_bundle("leaf", &foreign.cert_pem).unwrap();
    assert!(parallax_pki::Material::judge_client(&both, &chain, late).unwrap().is_err());
    let huge = format!("{both}-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", "A".repeat(10 << 20));
    assert!(matches!(TrustBundle::parse("bundle", &huge), Err(Error::TooLarge { .. })));
}

#[test]
fn nothing_is_revoked_twice_or_by_a_wrong_name() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::init(&home.path().join("state"), &options()).unwrap();
    authority.issue_observer("hub").unwrap();
    let revoke = |name: &'static str| {
        let picked = move |leaf: &parallax_pki::ledger::Leaf| leaf.identity.name() == name;
        authority.revoke(name, picked, RevocationReason::Unspecified, SystemTime::now())
    };
    assert!(matches!(revoke("hob"), Err(Error::Unknown { .. })));
    assert_eq!(revoke("hub").unwrap().len(), 1);
    assert!(matches!(revoke("hub"), Err(Error::Unknown { .. })));
    let list = authority.revocation_list(Hierarchy::Observers, 1).unwrap();
    authority.refresh_lists(SystemTime::now()).unwrap();
    assert_eq!(
        authority.revocation_list(Hierarchy::Observers, 1).unwrap(),
        list,
        "a fresh list was signed again"
    );
    assert_eq!(authority.refresh_lists(SystemTime::now() + 20 * DAY).unwrap(), 1);
    assert!(authority.ledger().current().is_empty());
}

#[test]
fn bad_input_15_states_that_others_may_write_or_that_were_edited_are_damage() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let authority = Authority::init(&state, &options()).unwrap();
    authority.issue_observer("hub").unwrap();
    let damage = || {
        let error = Authority::open(&state).unwrap_err();
        assert!(matches!(error, Error::StateDamaged { .. }), "{error}");
        error.to_string()
    };
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(damage().contains("chmod 700"));
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let journal = fs::read_to_string(state.join("journal.jsonl")).unwrap();
    fs::write(state.join("journal.jsonl"), journal.replacen("\"who\":\"\"", "\"who\":\"me\"", 1)).unwrap();
    assert!(damage().contains("line 2"), "{}", damage());
    fs::write(state.join("journal.jsonl"), &journal).unwrap();
    let cert = state.join("ca/observers/g1/ca.crt");
    fs::copy(state.join("ca/observees/g1/ca.crt"), &cert).unwrap();
    assert!(damage().contains("not the certificate that the journal speaks of"));
}

#[test]
fn an_end_that_is_near_or_past_shows_in_the_inventory() {
    let start = SystemTime::now();
    let authority = Authority::in_memory(&options(), start).unwrap();
    authority.issue_observee("eu-1", &[]).unwrap();
    let urgency =
        |days: u32| Inventory::of(&authority, Thresholds::default(), start + days * DAY).unwrap().urgency;
    assert_eq!(
        [urgency(0), urgency(10), urgency(24), urgency(29)],
        [Urgency::Fine, Urgency::Fine, Urgency::Due, Urgency::Critical]
    );
    let late = Inventory::of(&authority, Thresholds::default(), start + 40 * DAY).unwrap();
    assert_eq!(late.leaves[0].days_left, -11);
}

#[test]
fn a_clock_that_is_behind_the_journal_signs_nothing() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::init(&home.path().join("state"), &options()).unwrap();
    let at = |time| authority.issue_at(&request(&authority, "observer/hub"), time);
    let now = SystemTime::now();
    at(now - Duration::from_secs(240)).unwrap();
    let refused = at(now - Duration::from_secs(3600));
    assert!(matches!(refused, Err(Error::ClockBehind { .. })), "{refused:?}");
}

#[test]
fn every_prefix_of_a_journal_is_a_state() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let authority = Authority::init(&state, &options()).unwrap();
    authority.issue_observer("hub").unwrap();
    authority.issue_observee("eu-1", &[]).unwrap();
    for action in [RequestedAction::Prepare, RequestedAction::Abort, RequestedAction::Compromised(None)] {
        rotate_waiving(&authority, action, &["observer/hub", "observee/eu-1"], Some("test")).unwrap();
    }
    authority.revoke("all", |_| true, RevocationReason::Superseded, SystemTime::now()).unwrap();
    let text = fs::read(state.join("journal.jsonl")).unwrap();
    let journal = parallax_pki::journal::Journal::parse(&text).unwrap();
    assert!(journal.entries.len() >= 7);
    for count in 1..=journal.entries.len() {
        let ledger = Ledger::replay(&journal.entries[..count]).unwrap();
        for hierarchy in Hierarchy::ALL {
            let phase = ledger.phase(hierarchy).unwrap();
            assert!(ledger.generations.contains_key(&(hierarchy, phase.signing())));
        }
    }
}
