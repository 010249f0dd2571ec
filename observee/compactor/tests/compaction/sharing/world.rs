//! A bucket in memory that several workers use at once, one call at a time, in an order that a seed decides.
//!
//! A worker's call waits until every worker waits (or has ended); then one is let through. Time passes with every call. Now and then a worker sleeps for an hour or more in front of a
//! call, a call fails, an answer is lost after the call took effect, or a worker dies: from then on all its calls fail. After what changes blocks it is checked that no
//! source has gone out of sight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parallax_block::{BlockId, BlockMeta, DeletionMark};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::oneshot;

/// Of a thousand calls, how many go wrong in each way.
const FAILS: u32 = 10;
const LOSES_ANSWER: u32 = 15;
const SLEEPS: u32 = 8;
const DIES: u32 = 2;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Goes,
    Fails,
    LosesAnswer,
}

/// What went wrong, and how often: a run in which nothing did shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mishaps {
    pub failed: u32,
    pub lost_answers: u32,
    pub sleeps: u32,
    pub deaths: u32,
}

pub struct World {
    inner: InMemory,
    state: Mutex<State>,
    /// Readers look away from blocks whose mark is older than half of this.
    delete_delay: Duration,
}

struct State {
    rng: StdRng,
    now_ms: i64,
    /// By number of the worker.
    waiting: BTreeMap<usize, VecDeque<oneshot::Sender<Verdict>>>,
    asleep_until_ms: BTreeMap<usize, i64>,
    workers: usize,
    dead: BTreeSet<usize>,
    written_ms: BTreeMap<Path, i64>,
    is_rough: bool,
    /// Somebody looks around, and time stands still.
    is_frozen: bool,
    mishaps: Mishaps,
}

impl World {
    pub fn new(seed: u64, now_ms: i64, delete_delay: Duration) -> Arc<Self> {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            now_ms,
            waiting: BTreeMap::new(),
            asleep_until_ms: BTreeMap::new(),
            workers: 0,
            dead: BTreeSet::new(),
            written_ms: BTreeMap::new(),
            is_rough: true,
            is_frozen: false,
            mishaps: Mishaps::default(),
        };
        Arc::new(Self { inner: InMemory::new(), state: Mutex::new(state), delete_delay })
    }

    pub fn now_ms(&self) -> i64 {
        self.state.lock().unwrap().now_ms
    }

    pub fn mishaps(&self) -> Mishaps {
        self.state.lock().unwrap().mishaps
    }

    /// From now on nothing goes wrong.
    pub fn calm_down(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_rough = false;
        state.asleep_until_ms.clear();
    }

    /// Workers must all enter before the first of them does anything.
    pub fn enter(&self, workers: usize) {
        self.state.lock().unwrap().workers += workers;
    }

    pub fn leave(&self, worker: usize) {
        let mut state = self.state.lock().unwrap();
        state.workers -= 1;
        state.waiting.remove(&worker);
        state.schedule();
    }

    pub fn is_dead(&self, worker: usize) -> bool {
        self.state.lock().unwrap().dead.contains(&worker)
    }

    pub fn revive(&self, worker: usize) {
        self.state.lock().unwrap().dead.remove(&worker);
    }

    /// A worker rests between two passes.
    pub async fn rest(&self, worker: usize, how_long_ms: i64) {
        {
            let mut state = self.state.lock().unwrap();
            let until_ms = state.now_ms + how_long_ms;
            state.asleep_until_ms.insert(worker, until_ms);
        }
        self.turn(worker, false).await;
    }

    async fn turn(&self, worker: usize, is_call: bool) -> Verdict {
        let turn = {
            let mut state = self.state.lock().unwrap();
            if is_call && state.dead.contains(&worker) {
                return Verdict::Fails;
            }
            let (sender, turn) = oneshot::channel();
            state.waiting.entry(worker).or_default().push_back(sender);
            state.schedule();
            turn
        };
        turn.await.unwrap_or(Verdict::Fails)
    }

    /// Writes an object before the workers come.
    pub async fn fill(&self, name: &str, bytes: Bytes) {
        let path = Path::from(name);
        self.inner.put(&path, PutPayload::from_bytes(bytes)).await.unwrap();
        let mut state = self.state.lock().unwrap();
        let now_ms = state.now_ms;
        state.written_ms.insert(path, now_ms);
    }

    /// All objects.
    pub async fn objects(&self) -> BTreeMap<String, Bytes> {
        let metas: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for meta in metas {
            // A call that was let through before may still be at work.
            let Ok(found) = self.inner.get(&meta.location).await else { continue };
            objects.insert(meta.location.to_string(), found.bytes().await.unwrap());
        }
        objects
    }

    /// Whole blocks with their deletion marks.
    pub async fn blocks(&self) -> BTreeMap<BlockId, (BlockMeta, Option<DeletionMark>)> {
        let objects = self.objects().await;
        let metas = objects.iter().filter_map(|(name, bytes)| {
            let block: BlockId = name.strip_suffix("/meta.json")?.parse().ok()?;
            let mark = objects.get(&format!("{block}/deletion-mark.json"));
            let mark = mark.map(|bytes| serde_json::from_slice(bytes).unwrap());
            Some((block, (BlockMeta::parse_of(block, bytes).unwrap(), mark)))
        });
        metas.collect()
    }

    /// The raw sources that a reader sees now.
    pub async fn visible(&self) -> BTreeSet<BlockId> {
        let now_ms = {
            let mut state = self.state.lock().unwrap();
            state.is_frozen = true;
            state.now_ms
        };
        let half_ms = self.delete_delay.as_millis() as i64 / 2;
        let blocks = self.blocks().await;
        {
            let mut state = self.state.lock().unwrap();
            state.is_frozen = false;
            state.schedule();
        }
        let seen = blocks.into_values().filter(|(meta, mark)| {
            let is_old = mark.as_ref().is_some_and(|mark| now_ms - mark.deletion_time_s * 1000 > half_ms);
            meta.resolution_ms() == 0 && !is_old
        });
        seen.flat_map(|(meta, _)| meta.compaction.sources).collect()
    }

    fn times(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(written_ms) = self.state.lock().unwrap().written_ms.get(&meta.location) {
            let since = Duration::from_millis(written_ms.unsigned_abs());
            meta.last_modified = (std::time::UNIX_EPOCH + since).into();
        }
        meta
    }
}

impl State {
    /// Lets one call through, once all workers wait.
    fn schedule(&mut self) {
        loop {
            self.waiting.retain(|_, calls| {
                calls.retain(|call| !call.is_closed());
                !calls.is_empty()
            });
            if self.is_frozen || self.workers == 0 || self.waiting.len() < self.workers {
                return;
            }
            let is_awake = |worker: &usize| {
                self.asleep_until_ms.get(worker).is_none_or(|until_ms| *until_ms <= self.now_ms)
            };
            let awake: Vec<usize> = self.waiting.keys().copied().filter(is_awake).collect();
            if awake.is_empty() {
                let next = self.asleep_until_ms.values().copied().filter(|until_ms| *until_ms > self.now_ms);
                self.now_ms = next.min().unwrap_or(self.now_ms);
                continue;
            }
            let worker = awake[self.rng.random_range(0..awake.len())];
            self.now_ms += self.rng.random_range(1..4_000);
            let drawn = if self.is_rough { self.rng.random_range(0..1000) } else { 1000 };
            let verdict = match drawn {
                drawn if drawn < FAILS => {
                    self.mishaps.failed += 1;
                    Verdict::Fails
                }
                drawn if drawn < FAILS + LOSES_ANSWER => {
                    self.mishaps.lost_answers += 1;
                    Verdict::LosesAnswer
                }
                drawn if drawn < FAILS + LOSES_ANSWER + SLEEPS => {
                    self.mishaps.sleeps += 1;
                    let until_ms = self.now_ms + self.rng.random_range(600_000..10_800_000);
                    self.asleep_until_ms.insert(worker, until_ms);
                    continue;
                }
                drawn if drawn < FAILS + LOSES_ANSWER + SLEEPS + DIES => {
                    self.mishaps.deaths += 1;
                    self.dead.insert(worker);
                    Verdict::Fails
                }
                _ => Verdict::Goes,
            };
            let call = self.waiting.get_mut(&worker).and_then(VecDeque::pop_front);
            if self.dead.contains(&worker) {
                // Whatever else it was at fails, too.
                self.waiting.remove(&worker);
            }
            if call.is_some_and(|call| call.send(verdict).is_ok()) {
                return;
            }
        }
    }
}

/// A worker's way into the world.
pub struct Door {
    pub world: Arc<World>,
    pub worker: usize,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker {}", self.worker)
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker {}", self.worker)
    }
}

fn failure() -> Error {
    Error::Generic { store: "simulated", source: "injected".into() }
}

impl Door {
    async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.world.turn(self.worker, true).await {
            Verdict::Fails => Err(failure()),
            Verdict::Goes => call.await,
            Verdict::LosesAnswer => call.await.and_then(|_| Err(failure())),
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Door {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.call(async {
            let put = self.world.inner.put_opts(location, payload, opts).await?;
            let mut state = self.world.state.lock().unwrap();
            let now_ms = state.now_ms;
            state.written_ms.insert(location.clone(), now_ms);
            Ok(put)
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.world.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(self.world.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.call(self.world.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (world, worker) = (Arc::clone(&self.world), self.worker);
        let each = move |location: Result<Path>| {
            let door = Self { world: Arc::clone(&world), worker };
            async move {
                let location = location?;
                door.call(door.world.inner.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.then(each).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let door = Self { world: Arc::clone(&self.world), worker: self.worker };
        let prefix = prefix.cloned();
        let listed = async move {
            let metas: Vec<ObjectMeta> =
                door.call(door.world.inner.list(prefix.as_ref()).try_collect()).await?;
            let metas: Vec<Result<ObjectMeta>> =
                metas.into_iter().map(|meta| Ok(door.world.times(meta))).collect();
            Ok::<_, Error>(futures::stream::iter(metas))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call(self.world.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(self.world.inner.copy_opts(from, to, options)).await
    }
}
