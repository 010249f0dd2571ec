//! [`FaultyStore`]: a store that fails as clouds do, from a seed. For tests of whatever reads or writes a bucket.
//!
//! Whether a call fails, and how, follows from the seed, the call, the object and how often it was asked for before; not from the order in
//! which tasks run. So a failing test can be repeated with its seed, and a call that is repeated may succeed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// One way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 403.
    Forbidden,
    /// 404, although the object exists.
    NotFound,
    /// 500, not repeated by the store's own client.
    ServerError,
    /// The answer comes after [`Faults::slow`].
    Slow,
    /// Half of the body, then the connection breaks.
    HalfBody,
    /// Half of the body, and then its end as if that were all.
    ShortBody,
    /// More of a body than announced.
    LongBody,
}

impl Fault {
    pub const ALL: [Self; 7] = [
        Self::Forbidden,
        Self::NotFound,
        Self::ServerError,
        Self::Slow,
        Self::HalfBody,
        Self::ShortBody,
        Self::LongBody,
    ];
}

/// What to fail, and how often.
#[derive(Clone, Debug)]
pub struct Faults {
    pub seed: u64,
    /// Of a thousand calls, how many fail.
    pub permille: u32,
    /// Each as likely as the others; those that do not fit a call (a body's, for a write) are an error 500 there.
    pub kinds: Vec<Fault>,
    pub slow: Duration,
}

impl Faults {
    /// Every kind of fault, in `permille` of the calls.
    pub fn all(seed: u64, permille: u32) -> Self {
        Self { seed, permille, kinds: Fault::ALL.to_vec(), slow: Duration::from_millis(20) }
    }
}

/// A store with faults.
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
    on: AtomicBool,
    calls: Mutex<BTreeMap<String, u64>>,
    injected: Mutex<BTreeMap<Fault, u64>>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        let on = AtomicBool::new(true);
        Self { inner, faults, on, calls: Mutex::default(), injected: Mutex::default() }
    }

    /// Turns faults off or on again.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// How many faults of each kind there were: a test whose store never failed shows nothing.
    pub fn injected(&self) -> BTreeMap<Fault, u64> {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fault of this call, if any.
    fn draw(&self, call: &str, path: &str) -> Option<Fault> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        let key = format!("{call} {path}");
        let nth = {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            let nth = calls.entry(key.clone()).or_default();
            *nth += 1;
            *nth
        };
        let random = mix(self.faults.seed ^ hash(key.as_bytes()) ^ mix(nth));
        if random % 1000 >= u64::from(self.faults.permille) {
            return None;
        }
        let kinds = self.faults.kinds.len() as u64;
        let index = usize::try_from((random / 1000).checked_rem(kinds)?).ok()?;
        let fault = *self.faults.kinds.get(index)?;
        *self.injected.lock().unwrap_or_else(PoisonError::into_inner).entry(fault).or_default() += 1;
        Some(fault)
    }

    /// What goes wrong before an answer; body faults are returned for later.
    async fn before(&self, call: &str, path: &Path, has_body: bool) -> Result<Option<Fault>> {
        let fault = self.draw(call, path.as_ref());
        match fault {
            Some(Fault::Slow) => tokio::time::sleep(self.faults.slow).await,
            Some(Fault::HalfBody | Fault::ShortBody | Fault::LongBody) if has_body => return Ok(fault),
            Some(fault) => return Err(error(fault, path)),
            None => {}
        }
        Ok(None)
    }
}

fn error(fault: Fault, path: &Path) -> Error {
    let path = path.to_string();
    match fault {
        Fault::Forbidden => Error::PermissionDenied { path, source: "403 on purpose".into() },
        Fault::NotFound => Error::NotFound { path, source: "404 on purpose".into() },
        _ => Error::Generic { store: "faulty", source: "500 on purpose".into() },
    }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finisher of SplitMix64.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty({}, seed {})", self.inner, self.faults.seed)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.before("put", path, false).await?;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before("put", path, false).await?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let call = if options.head { "head" } else { "get" };
        let fault = self.before(call, path, !options.head).await?;
        let result = self.inner.get_opts(path, options).await?;
        match fault {
            None => Ok(result),
            Some(fault) => spoiled(result, fault).await,
        }
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let fault = self.before("get", path, true).await?;
        let mut parts = self.inner.get_ranges(path, ranges).await?;
        match (fault, parts.last_mut()) {
            (Some(Fault::ShortBody), Some(last)) => last.truncate(last.len() / 2),
            (Some(fault), _) => return Err(error(fault, path)),
            (None, _) => {}
        }
        Ok(parts)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.draw("delete", "") {
            None | Some(Fault::Slow) => self.inner.delete_stream(paths),
            Some(fault) => paths.and_then(move |path| async move { Err(error(fault, &path)) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        let stream = self.inner.list(prefix);
        match self.draw("list", path.as_ref()) {
            None | Some(Fault::Slow) => stream,
            // A listing that breaks off says so: the clouds send pages whole or not at all.
            Some(Fault::HalfBody | Fault::ShortBody | Fault::LongBody) => {
                let failure = error(Fault::ServerError, &path);
                stream.take(2).chain(futures::stream::once(async { Err(failure) })).boxed()
            }
            Some(Fault::NotFound) => {
                futures::stream::once(async move { Err(error(Fault::ServerError, &path)) }).boxed()
            }
            Some(fault) => futures::stream::once(async move { Err(error(fault, &path)) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        match self.draw("list", path.as_ref()) {
            None => {}
            Some(Fault::Slow) => tokio::time::sleep(self.faults.slow).await,
            Some(Fault::Forbidden) => return Err(error(Fault::Forbidden, &path)),
            Some(_) => return Err(error(Fault::ServerError, &path)),
        }
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before("put", to, false).await?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.before("put", to, false).await?;
        self.inner.rename_opts(from, to, options).await
    }
}

/// An answer whose head is right and whose body is not.
async fn spoiled(result: GetResult, fault: Fault) -> Result<GetResult> {
    let (meta, range) = (result.meta.clone(), result.range.clone());
    let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
    let path = meta.location.clone();
    let whole = result.bytes().await?;
    let half = whole.slice(..whole.len() / 2);
    let pieces = match fault {
        Fault::HalfBody => vec![Ok(half), Err(error(Fault::ServerError, &path))],
        Fault::LongBody => vec![Ok(whole), Ok(Bytes::from_static(b"too much"))],
        _ => vec![Ok(half)],
    };
    let payload = GetResultPayload::Stream(futures::stream::iter(pieces).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}
