//! All interleavings of a rotation on small meshes: the steps of the operator, leaves and bundles that arrive late and in any order of peers, connections
//! that come and go, observations that are made at any time.
//!
//! Checked: in no reachable state does a verifier distrust a leaf that a holder has loaded, or one that an open connection was made with; rotations and
//! their undoing come to an end; and each gate is needed, because without it there is a way to break that.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use parallax_pki::rotation::{Action, Evidence, Gate, Gates, LeafSeen, PeerEvidence, Phase, Seen, decide};

/// Generations that are made at most, the first included.
const GENERATIONS: u32 = 3;
/// Leaves that a holder gets at most.
const LEAVES: usize = 4;
/// Bundles that are published at most.
const BUNDLES: usize = 5;
/// More states than any of the meshes below has; beyond it the check is not one.
const MAX_STATES: usize = 3_000_000;

/// A set of generations, as bits.
type Set = u8;

fn bit(generation: u32) -> Set {
    1 << generation
}

fn set(generations: &[u32]) -> Set {
    generations.iter().fold(0, |set, generation| set | bit(*generation))
}

fn unpacked(set: Set) -> BTreeSet<u32> {
    (0..8).filter(|generation| set & bit(*generation) != 0).collect()
}

/// Something seen, and whether that was in this phase.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Note<T> {
    what: T,
    fresh: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Verifier {
    /// Index of the bundle it has loaded.
    bundle: usize,
    trusts: Option<Note<Set>>,
    connections: Option<Note<Set>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Holder {
    /// Generations of the leaves it was issued, in order.
    issued: Vec<u32>,
    /// Index of the leaf it has loaded.
    leaf: usize,
    shows: Option<Note<usize>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    phase: Phase,
    made: u32,
    published: Vec<Set>,
    holders: Vec<Holder>,
    verifiers: Vec<Verifier>,
    /// Per holder and verifier, the generation of the leaf that the open connection was made with.
    connections: Vec<Vec<Option<u32>>>,
}

impl World {
    fn new(holders: usize, verifiers: usize) -> Self {
        Self {
            phase: Phase::Steady { signing: 1 },
            made: 1,
            published: vec![bit(1)],
            holders: vec![Holder { issued: vec![1], leaf: 0, shows: None }; holders],
            verifiers: vec![Verifier { bundle: 0, trusts: None, connections: None }; verifiers],
            connections: vec![vec![None; verifiers]; holders],
        }
    }

    /// I1, and what is wrong where it does not hold.
    fn broken(&self) -> Option<String> {
        for (v, verifier) in self.verifiers.iter().enumerate() {
            let trusted = self.published[verifier.bundle];
            for (h, holder) in self.holders.iter().enumerate() {
                let generation = holder.issued[holder.leaf];
                if trusted & bit(generation) == 0 {
                    return Some(format!("verifier {v} distrusts g{generation}, which holder {h} shows"));
                }
                if let Some(generation) = self.connections[h][v]
                    && trusted & bit(generation) == 0
                {
                    return Some(format!(
                        "verifier {v} cuts the connection of holder {h}, made with g{generation}"
                    ));
                }
            }
        }
        None
    }

    fn evidence(&self) -> Evidence {
        let at = |fresh: bool| 1 + u64::from(fresh);
        let mut peers = BTreeMap::new();
        for (h, holder) in self.holders.iter().enumerate() {
            let leaf =
                |index: usize| LeafSeen { generation: holder.issued[index], serial: index.to_string() };
            let peer = PeerEvidence {
                holds: Some(leaf(holder.issued.len() - 1)),
                shows: holder
                    .shows
                    .as_ref()
                    .map(|note| Seen { at_ms: at(note.fresh), what: leaf(note.what) }),
                ..PeerEvidence::default()
            };
            peers.insert(format!("holder {h}"), peer);
        }
        for (v, verifier) in self.verifiers.iter().enumerate() {
            let seen = |note: &Option<Note<Set>>| {
                note.as_ref().map(|note| Seen { at_ms: at(note.fresh), what: unpacked(note.what) })
            };
            let peer = PeerEvidence {
                verifies: true,
                trusts: seen(&verifier.trusts),
                connections: seen(&verifier.connections),
                ..PeerEvidence::default()
            };
            peers.insert(format!("verifier {v}"), peer);
        }
        Evidence { now_ms: 2, phase_since_ms: 1, peers }
    }

    fn enter(&mut self, phase: Phase, gates: Gates) {
        self.phase = phase;
        let trusted = set(&phase.trusted());
        if self.published.last() != Some(&trusted) {
            self.published.push(trusted);
        }
        // Where the gate looks at the time, what is old can as well be forgotten: fewer states.
        let forget = gates == Gates::ALL || gates != Gates::without(Gate::EvidenceOfThisPhase);
        for verifier in &mut self.verifiers {
            for note in [&mut verifier.trusts, &mut verifier.connections] {
                age(note, forget);
            }
        }
        for holder in &mut self.holders {
            age(&mut holder.shows, forget);
        }
    }

    /// Every state that one step leads to, with the step's name.
    fn next(&self, gates: Gates) -> Vec<(String, Self)> {
        let mut next = Vec::new();
        self.operator(gates, &mut next);
        self.arrivals(&mut next);
        self.traffic(&mut next);
        self.observations(gates, &mut next);
        next.retain(|(_, world)| world.published.len() <= BUNDLES);
        next
    }

    fn operator(&self, gates: Gates, next: &mut Vec<(String, Self)>) {
        let evidence = self.evidence();
        for action in [
            Action::Prepare { to: self.made + 1 },
            Action::Activate,
            Action::Drain,
            Action::Retire,
            Action::Abort,
        ] {
            let prepare = matches!(action, Action::Prepare { .. });
            if prepare && self.made == GENERATIONS {
                continue;
            }
            if let Ok(phase) = decide(self.phase, action, &evidence, gates)
                && phase != self.phase
            {
                let mut world = self.clone();
                world.made += u32::from(prepare);
                world.enter(phase, gates);
                next.push((format!("operator: {}", action.as_str()), world));
            }
        }
        for (h, holder) in self.holders.iter().enumerate() {
            let signing = self.phase.signing();
            if holder.issued.last() != Some(&signing) && holder.issued.len() < LEAVES {
                let mut world = self.clone();
                world.holders[h].issued.push(signing);
                next.push((format!("operator: renew holder {h} with g{signing}"), world));
            }
        }
    }

    fn arrivals(&self, next: &mut Vec<(String, Self)>) {
        for (v, verifier) in self.verifiers.iter().enumerate() {
            for bundle in verifier.bundle + 1..self.published.len() {
                let mut world = self.clone();
                world.verifiers[v].bundle = bundle;
                next.push((format!("verifier {v} loads bundle {bundle}"), world));
            }
        }
        for (h, holder) in self.holders.iter().enumerate() {
            for leaf in holder.leaf + 1..holder.issued.len() {
                let mut world = self.clone();
                world.holders[h].leaf = leaf;
                next.push((format!("holder {h} loads leaf {leaf} (g{})", holder.issued[leaf]), world));
            }
        }
    }

    fn traffic(&self, next: &mut Vec<(String, Self)>) {
        for (h, holder) in self.holders.iter().enumerate() {
            for v in 0..self.verifiers.len() {
                for connection in [Some(holder.issued[holder.leaf]), None] {
                    if self.connections[h][v] != connection {
                        let mut world = self.clone();
                        world.connections[h][v] = connection;
                        let what = if connection.is_some() { "connects to" } else { "leaves" };
                        next.push((format!("holder {h} {what} verifier {v}"), world));
                    }
                }
            }
        }
    }

    fn observations(&self, gates: Gates, next: &mut Vec<(String, Self)>) {
        // Only what the phase's gates look at; without the gate of time everything may matter later.
        let all = gates == Gates::without(Gate::EvidenceOfThisPhase);
        let prepared = matches!(self.phase, Phase::Prepared { .. });
        let activated = matches!(self.phase, Phase::Activated { .. });
        let draining = matches!(self.phase, Phase::Draining { .. });
        for (v, verifier) in self.verifiers.iter().enumerate() {
            if all || prepared {
                let mut world = self.clone();
                let what = self.published[verifier.bundle];
                world.verifiers[v].trusts = Some(Note { what, fresh: true });
                next.push((format!("what verifier {v} trusts is seen"), world));
            }
            if all || draining {
                let mut world = self.clone();
                let what = self.connections.iter().filter_map(|of| of[v]).fold(0, |set, of| set | bit(of));
                world.verifiers[v].connections = Some(Note { what, fresh: true });
                next.push((format!("the connections of verifier {v} are seen"), world));
            }
        }
        for (h, holder) in self.holders.iter().enumerate() {
            if all || activated {
                let mut world = self.clone();
                world.holders[h].shows = Some(Note { what: holder.leaf, fresh: true });
                next.push((format!("the leaf of holder {h} is seen"), world));
            }
        }
    }
}

fn age<T>(note: &mut Option<Note<T>>, forget: bool) {
    if forget {
        *note = None;
    } else if let Some(note) = note {
        note.fresh = false;
    }
}

struct Explored {
    states: usize,
    phases: HashSet<Phase>,
    /// The steps to the first state that breaks I1, and what is wrong there.
    counter_example: Option<(Vec<String>, String)>,
}

/// Breadth first, so that a counter-example is a shortest one.
fn explore(holders: usize, verifiers: usize, gates: Gates) -> Explored {
    let start = World::new(holders, verifiers);
    let mut seen: HashSet<World> = HashSet::from([start.clone()]);
    // Per state in the order of discovery: the one before, and the step.
    let mut origin: Vec<(usize, String)> = vec![(0, String::new())];
    let mut queue = VecDeque::from([(0_usize, start)]);
    let mut phases = HashSet::new();
    while let Some((index, world)) = queue.pop_front() {
        phases.insert(world.phase);
        for (step, next) in world.next(gates) {
            if seen.contains(&next) {
                continue;
            }
            origin.push((index, step));
            if let Some(wrong) = next.broken() {
                let path = path(&origin, origin.len() - 1);
                return Explored { states: seen.len(), phases, counter_example: Some((path, wrong)) };
            }
            assert!(seen.len() < MAX_STATES, "the mesh is too large to be checked");
            seen.insert(next.clone());
            queue.push_back((origin.len() - 1, next));
        }
    }
    Explored { states: seen.len(), phases, counter_example: None }
}

fn path(origin: &[(usize, String)], mut index: usize) -> Vec<String> {
    let mut steps = Vec::new();
    while index != 0 {
        steps.push(origin[index].1.clone());
        index = origin[index].0;
    }
    steps.reverse();
    steps
}

#[test]
fn no_interleaving_of_gated_steps_breaks_trust() {
    for (holders, verifiers) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let explored = explore(holders, verifiers, Gates::ALL);
        println!("{holders} holders, {verifiers} verifiers: {} states", explored.states);
        assert!(explored.counter_example.is_none(), "{:?}", explored.counter_example);
        for phase in [
            Phase::Steady { signing: 2 },
            Phase::Steady { signing: 3 },
            // Undone after activation.
            Phase::Activated { from: 2, to: 1 },
            Phase::Draining { from: 2, to: 1 },
        ] {
            assert!(explored.phases.contains(&phase), "{phase} is never reached");
        }
        assert!(explored.states > 500, "only {} states: the check is empty", explored.states);
    }
}

#[test]
fn every_gate_is_missed_when_it_is_left_out() {
    for gate in Gate::ALL {
        let explored = explore(1, 1, Gates::without(gate));
        let Some((steps, wrong)) = explored.counter_example else {
            panic!("{gate:?} can be left out: {} states hold without it", explored.states);
        };
        println!("without {gate:?}: {wrong}\n  {}", steps.join("\n  "));
    }
}
