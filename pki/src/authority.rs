//! The authority of a trust domain: issuing keys, one per direction, in generations; the leaves they sign, revoke and replace.
//!
//! Invariants: a leaf is signed by the authority of its role's direction and carries the bundle of the other; it never outlives its issuer; a leaf is
//! recorded before it is handed out. Every change is one entry of the journal (see [`crate::journal`]); a change that was interrupted is finished or
//! undone by the next one. An authority in memory ([`Authority::in_memory`]) is the same without a disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::Error;
use crate::bundle::digest_text;
use crate::certificate::format_time;
use crate::disk::{Disk, RealDisk};
use crate::identity::TrustDomain;
use crate::issuing::{Generation, Unlock};
use crate::journal::Journal;
use crate::key_file::{Passphrase, read_key, seal};
use crate::ledger::{Event, Ledger};
use crate::profile::{AUTHORITY_LIFETIME, BACKDATE, Hierarchy, KeyKind};
use crate::state::{Staged, State, bundle_place, generation_place, issued_place, list_place};

mod deliver;
mod leaves;
mod revoke;
mod rotate;

pub use leaves::{Home, RenewPolicy, Renewed, SignedRequest, renew_at};
pub use rotate::{RequestedAction, RotationRequest, RotationResult};

/// Longest lifetime that may be asked for.
pub const MAX_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How to make an authority.
#[derive(Clone, Debug)]
pub struct AuthorityOptions {
    pub trust_domain: TrustDomain,
    /// Validity of both issuing certificates.
    pub lifetime: Duration,
    pub key: KeyKind,
    /// What the keys are encrypted with. `None`: they are not, and every command says so.
    pub passphrase: Option<Passphrase>,
    /// CAs that others made, in place of new ones.
    pub imported: Vec<ImportedAuthority>,
    /// Who is asking, for the journal.
    pub operator: String,
    pub disk: Arc<dyn Disk>,
}

/// A CA that others made. Both hierarchies may be given the same one.
#[derive(Clone)]
pub struct ImportedAuthority {
    pub hierarchy: Hierarchy,
    /// Where it comes from, for errors.
    pub subject: String,
    pub cert_pem: String,
    pub key_pem: Zeroizing<String>,
    /// Opens `key_pem`, if it is encrypted.
    pub passphrase: Option<Passphrase>,
}

impl std::fmt::Debug for ImportedAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportedAuthority").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl AuthorityOptions {
    /// Keys that are not encrypted; two years.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            lifetime: AUTHORITY_LIFETIME,
            key: KeyKind::default(),
            passphrase: None,
            imported: Vec::new(),
            operator: String::new(),
            disk: Arc::new(RealDisk),
        }
    }
}

/// How to open an authority.
#[derive(Clone)]
pub struct OpenOptions {
    /// Asked for the passphrase, once, when something is to be signed and the key is encrypted.
    pub unlock: Option<Unlock>,
    /// Who is asking, for the journal.
    pub operator: String,
    pub disk: Arc<dyn Disk>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { unlock: None, operator: String::new(), disk: Arc::new(RealDisk) }
    }
}

impl OpenOptions {
    /// With a passphrase that is at hand.
    pub fn with_passphrase(passphrase: Passphrase) -> Self {
        Self { unlock: Some(Arc::new(move || Ok(Some(passphrase.clone())))), ..Self::default() }
    }
}

/// The issuing authorities of a trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    state: Option<State>,
    unlock: Option<Unlock>,
    operator: String,
    book: Mutex<Book>,
}

/// What the journal says, with the certificates and lists it speaks of.
struct Book {
    journal: Journal,
    ledger: Ledger,
    generations: BTreeMap<(Hierarchy, u32), Arc<Generation>>,
    /// PEM of the newest list of each generation.
    lists: BTreeMap<(Hierarchy, u32), String>,
    /// What could not be delivered, in words.
    undelivered: Vec<String>,
}

/// What a change adds.
#[derive(Default)]
struct Change {
    events: Vec<Event>,
    files: Vec<Staged>,
    generations: Vec<Generation>,
    lists: Vec<((Hierarchy, u32), String)>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority and stores it in `directory`, which must not exist or be empty.
    pub fn init(directory: &Path, options: &AuthorityOptions) -> Result<Self, Error> {
        let now = SystemTime::now();
        let change = first_change(options, now)?;
        let entry = (entry_time(now)?, options.operator.as_str(), change.events.clone());
        let (state, journal) = State::create(directory, Arc::clone(&options.disk), &change.files, entry)?;
        let mut book = Book::empty();
        book.ledger =
            Ledger::replay(&journal.entries).map_err(|reason| crate::state::damaged(directory, reason))?;
        book.journal = journal;
        book.take(change);
        book.derive(&state)?;
        let passphrase = options.passphrase.clone();
        Ok(Self {
            trust_domain: options.trust_domain.clone(),
            state: Some(state),
            unlock: passphrase.map(|passphrase| -> Unlock { Arc::new(move || Ok(Some(passphrase.clone()))) }),
            operator: options.operator.clone(),
            book: Mutex::new(book),
        })
    }

    /// Opens the authority that [`Authority::init`] stored in `directory`, without a passphrase.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_with(directory, OpenOptions::default())
    }

    /// Opens the authority that [`Authority::init`] stored in `directory`. Reads only; no key is touched until something is to be signed.
    pub fn open_with(directory: &Path, options: OpenOptions) -> Result<Self, Error> {
        let (state, journal, ledger) = State::open(directory, options.disk)?;
        let book = Book::load(&state, journal, ledger)?;
        let trust_domain = book.ledger.trust_domain().cloned().ok_or_else(|| {
            crate::state::damaged(directory, "its journal names no trust domain".to_owned())
        })?;
        let unlock = options.unlock.map(ask_once);
        Ok(Self {
            trust_domain,
            state: Some(state),
            unlock,
            operator: options.operator,
            book: Mutex::new(book),
        })
    }

    /// An authority that lives as long as the value, valid from `now` on. For tests and for demonstrations.
    pub fn in_memory(options: &AuthorityOptions, now: SystemTime) -> Result<Self, Error> {
        let authority = Self {
            trust_domain: options.trust_domain.clone(),
            state: None,
            unlock: None,
            operator: options.operator.clone(),
            book: Mutex::new(Book::empty()),
        };
        let first = first_change(&AuthorityOptions { passphrase: None, ..options.clone() }, now)?;
        authority.change(now, |_, change| {
            *change = first;
            Ok(())
        })?;
        Ok(authority)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where the state lies; `None` in memory.
    pub fn directory(&self) -> Option<&Path> {
        self.state.as_ref().map(State::directory)
    }

    /// PEM of the authorities that verify the leaves of `hierarchy`, with their revocation lists.
    pub fn bundle_pem(&self, hierarchy: Hierarchy) -> String {
        self.book().bundle(hierarchy)
    }

    /// When the authority that signs for `hierarchy` ends.
    pub fn not_after(&self, hierarchy: Hierarchy) -> SystemTime {
        self.book().signing(hierarchy).map_or(SystemTime::UNIX_EPOCH, |generation| generation.facts.not_after)
    }

    /// What the journal says.
    pub fn ledger(&self) -> Ledger {
        self.book().ledger.clone()
    }

    /// SHA-256 of the journal's last line: keep a copy elsewhere to notice a journal that was cut short.
    pub fn journal_head(&self) -> String {
        self.book().journal.head.clone()
    }

    /// Certificates of the generations of `hierarchy`, by number.
    pub fn generation_certificates(&self, hierarchy: Hierarchy) -> BTreeMap<u32, String> {
        let book = self.book();
        let of = book.generations.iter().filter(|((known, _), _)| *known == hierarchy);
        of.map(|((_, number), generation)| (*number, generation.cert_pem.clone())).collect()
    }

    /// The newest revocation list of a generation, PEM.
    pub fn revocation_list(&self, hierarchy: Hierarchy, generation: u32) -> Option<String> {
        self.book().lists.get(&(hierarchy, generation)).cloned()
    }

    /// True if a key of the state is not encrypted.
    pub fn has_plain_keys(&self) -> bool {
        let book = self.book();
        book.ledger.generations.values().any(|generation| !generation.encrypted && !generation.key_destroyed)
    }

    /// What could not be written to its place, in words: leaves and bundles of directories that are gone. The next change tries again.
    pub fn undelivered(&self) -> Vec<String> {
        self.book().undelivered.clone()
    }

    /// Finishes or undoes what an interrupted command left, and writes bundles to the leaves' directories again.
    pub fn repair(&self) -> Result<(), Error> {
        self.change(SystemTime::now(), |_, _| Ok(()))
    }

    pub(crate) fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One change: `work` says what it adds, or refuses and nothing happens. A change without events commits nothing.
    fn change<T>(
        &self,
        now: SystemTime,
        work: impl FnOnce(&Book, &mut Change) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut book = self.book();
        let mut change = Change::default();
        let Some(state) = &self.state else {
            let result = work(&book, &mut change)?;
            let (entry, line) = book
                .journal
                .next_line(entry_time(now)?, &self.operator, std::mem::take(&mut change.events))
                .and_then(|(entry, line)| book.ledger.apply(&entry).map(|()| (entry, line)))
                .map_err(|reason| Error::Signing { subject: "the ledger".to_owned(), reason })?;
            book.journal.push(entry, &line);
            book.take(change);
            return Ok(result);
        };
        let lock = state.lock()?;
        let (journal, ledger) = state.read()?;
        if journal.head == book.journal.head {
            book.journal = journal;
        } else {
            *book = Book::load(state, journal, ledger)?;
        }
        let Book { journal, ledger, .. } = &mut *book;
        state.remove_orphans(&lock, journal, ledger)?;
        book.derive(state)?;
        check_clock(&book.ledger, now)?;
        let result = work(&book, &mut change)?;
        if change.events.is_empty() {
            return Ok(result);
        }
        let events = std::mem::take(&mut change.events);
        let next = book.next_ledger(&events, entry_time(now)?, state.directory())?;
        state.stage(&change.files)?;
        state.commit(&lock, &mut book.journal, (entry_time(now)?, &self.operator, events))?;
        book.ledger = next;
        book.take(change);
        book.derive(state)?;
        Ok(result)
    }
}

impl Book {
    fn empty() -> Self {
        Self {
            journal: Journal::default(),
            ledger: Ledger::default(),
            generations: BTreeMap::new(),
            lists: BTreeMap::new(),
            undelivered: Vec::new(),
        }
    }

    fn load(state: &State, journal: Journal, ledger: Ledger) -> Result<Self, Error> {
        let mut book = Self { journal, ledger, ..Self::empty() };
        for ((hierarchy, number), record) in &book.ledger.generations {
            let place = generation_place(*hierarchy, *number);
            let directory = state.directory().join(&place);
            let key_path = directory.join("ca.key");
            for path in directory.parent().into_iter().chain([directory.as_path(), &key_path]) {
                crate::state::check_no_link(path)?;
            }
            let cert_pem = state.text(&place.join("ca.crt"))?;
            if digest_text(&cert_pem) != record.certificate_sha256 {
                let reason = "it is not the certificate that the journal speaks of; restore it from a backup";
                return Err(crate::state::damaged(&directory, reason.to_owned()));
            }
            let key_path = (!record.key_destroyed).then_some(key_path);
            if let Some(path) = key_path.as_ref().filter(|path| path.exists()) {
                crate::state::check_private(path)?;
            }
            let generation = Generation::load(*hierarchy, *number, cert_pem, key_path, record.imported)?;
            book.generations.insert((*hierarchy, *number), Arc::new(generation));
            if let Some((list, _)) = record.list {
                let text = state.text(&list_place(*hierarchy, *number, list))?;
                book.lists.insert((*hierarchy, *number), text);
            }
        }
        Ok(book)
    }

    fn next_ledger(&self, events: &[Event], time: Timestamp, subject: &Path) -> Result<Ledger, Error> {
        let failed = |reason: String| crate::state::damaged(subject, reason);
        let (entry, _) = self.journal.next_line(time, "", events.to_vec()).map_err(failed)?;
        let mut next = self.ledger.clone();
        next.apply(&entry).map_err(failed)?;
        Ok(next)
    }

    fn take(&mut self, change: Change) {
        for generation in change.generations {
            self.generations.insert((generation.hierarchy, generation.number), Arc::new(generation));
        }
        self.lists.extend(change.lists);
    }

    fn signing(&self, hierarchy: Hierarchy) -> Option<&Arc<Generation>> {
        self.generations.get(&(hierarchy, self.ledger.phase(hierarchy)?.signing()))
    }

    fn signing_or_error(&self, hierarchy: Hierarchy) -> Result<&Arc<Generation>, Error> {
        self.signing(hierarchy).ok_or_else(|| Error::Signing {
            subject: format!("with the {} authority", hierarchy.as_str()),
            reason: "there is none".to_owned(),
        })
    }

    fn trusted(&self, hierarchy: Hierarchy) -> Vec<u32> {
        self.ledger.phase(hierarchy).map(crate::rotation::Phase::trusted).unwrap_or_default()
    }

    /// The certificates of the trusted generations, each with its list behind it.
    fn bundle(&self, hierarchy: Hierarchy) -> String {
        let mut text = String::new();
        for number in self.trusted(hierarchy) {
            if let Some(generation) = self.generations.get(&(hierarchy, number)) {
                text.push_str(generation.cert_pem.trim_end());
                text.push('\n');
            }
            if let Some(list) = self.lists.get(&(hierarchy, number)) {
                text.push_str(list.trim_end());
                text.push('\n');
            }
        }
        text
    }
}

impl Change {
    /// A new generation with its files, sealed with `passphrase`.
    fn add_generation(
        &mut self,
        generation: Generation,
        passphrase: Option<&Passphrase>,
    ) -> Result<(), Error> {
        let place = generation_place(generation.hierarchy, generation.number);
        let key = generation.key(None)?;
        let sealed = seal(&generation.name(), &key, passphrase)?;
        self.events.push(Event::AuthorityAdded {
            hierarchy: generation.hierarchy,
            generation: generation.number,
            certificate_sha256: digest_text(&generation.cert_pem),
            not_before: timestamp(generation.facts.not_before)?,
            not_after: timestamp(generation.facts.not_after)?,
            imported: generation.imported,
            encrypted: passphrase.is_some(),
        });
        self.stage(place.join("ca.key"), sealed.as_bytes());
        self.stage(place.join("ca.crt"), generation.cert_pem.as_bytes());
        self.generations.push(generation);
        Ok(())
    }

    fn add_list(
        &mut self,
        (hierarchy, generation): (Hierarchy, u32),
        number: u64,
        due: SystemTime,
        pem: String,
    ) -> Result<(), Error> {
        let next_update = timestamp(due)?;
        self.events.push(Event::ListSigned { hierarchy, generation, number, next_update });
        self.stage(list_place(hierarchy, generation, number), pem.as_bytes());
        self.lists.push(((hierarchy, generation), pem));
        Ok(())
    }

    fn stage(&mut self, place: PathBuf, bytes: &[u8]) {
        self.files.push(Staged { place, bytes: Zeroizing::new(bytes.to_vec()) });
    }
}

/// What `init` commits.
fn first_change(options: &AuthorityOptions, now: SystemTime) -> Result<Change, Error> {
    let mut change = Change::default();
    change.events.push(Event::Initialised { trust_domain: options.trust_domain.as_str().to_owned() });
    if options.lifetime.is_zero() || options.lifetime > MAX_LIFETIME {
        return Err(Error::Signing {
            subject: format!("the authorities of {}", options.trust_domain),
            reason: "their lifetime must be above zero and at most 20 years".to_owned(),
        });
    }
    for hierarchy in Hierarchy::ALL {
        let given = options.imported.iter().find(|given| given.hierarchy == hierarchy);
        let generation = match given {
            Some(given) => {
                let key = read_key(&given.subject, &given.key_pem, given.passphrase.as_ref())?;
                Generation::import(&given.subject, hierarchy, 1, &given.cert_pem, key, now)?
            }
            None => {
                Generation::generate(&options.trust_domain, hierarchy, 1, options.key, options.lifetime, now)?
            }
        };
        change.add_generation(generation, options.passphrase.as_ref())?;
    }
    Ok(change)
}

/// A command asks for its passphrase once.
fn ask_once(unlock: Unlock) -> Unlock {
    let answer = OnceLock::new();
    Arc::new(move || {
        if let Some(known) = answer.get() {
            return Ok(Some(Passphrase::clone(known)));
        }
        let given = unlock()?;
        if let Some(given) = &given {
            let _ = answer.set(given.clone());
        }
        Ok(given)
    })
}

/// Signing with a clock that is behind makes certificates that end too early, and lists that are older than the ones before them.
fn check_clock(ledger: &Ledger, now: SystemTime) -> Result<(), Error> {
    match ledger.last_time.map(SystemTime::from) {
        Some(last) if now + BACKDATE < last => Err(Error::ClockBehind {
            now: format_time(now),
            what: "the journal's last entry".to_owned(),
            then: format_time(last),
        }),
        _ => Ok(()),
    }
}

/// To the millisecond: what is seen right after a step counts for the next one.
fn entry_time(time: SystemTime) -> Result<Timestamp, Error> {
    Timestamp::try_from(time)
        .and_then(|time| Timestamp::from_millisecond(time.as_millisecond()))
        .map_err(|error| Error::Signing { subject: "a date".to_owned(), reason: error.to_string() })
}

/// To the second, as certificates have it.
fn timestamp(time: SystemTime) -> Result<Timestamp, Error> {
    Timestamp::try_from(time)
        .and_then(|time| Timestamp::from_second(time.as_second()))
        .map_err(|error| Error::Signing { subject: "a date".to_owned(), reason: error.to_string() })
}

fn issued_file(hierarchy: Hierarchy, serial: &str, cert_pem: &str) -> Staged {
    Staged { place: issued_place(hierarchy, serial), bytes: Zeroizing::new(cert_pem.as_bytes().to_vec()) }
}

/// Within the state; used by [`deliver`].
fn bundles(book: &Book, state: &State) -> Result<(), Error> {
    Hierarchy::ALL
        .into_iter()
        .try_for_each(|hierarchy| state.derive(&bundle_place(hierarchy), &book.bundle(hierarchy)))
}
