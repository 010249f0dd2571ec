//! A store on which something happens when an object is read, written or deleted.

use std::future::ready;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Reads,
    Deletes,
    /// It is there by now.
    Wrote,
}

type Hook = dyn Fn(Call, &str) -> BoxFuture<'static, ()> + Send + Sync;

pub struct Hooked {
    inner: Arc<dyn ObjectStore>,
    hook: Arc<Hook>,
}

impl Hooked {
    /// A bucket in a directory; calls `written` with an object's name once it is there.
    pub fn new(dir: &FilePath, written: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let inner = Arc::new(LocalFileSystem::new_with_prefix(dir).unwrap());
        Self::over(inner, move |call, object| {
            if call == Call::Wrote {
                written(object);
            }
            ready(()).boxed()
        })
    }

    /// Whoever reads, writes or deletes an object waits for `hook`.
    pub fn over(
        inner: Arc<dyn ObjectStore>,
        hook: impl Fn(Call, &str) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl std::fmt::Display for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hooked")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let put = self.inner.put_opts(location, payload, opts).await?;
        (self.hook)(Call::Wrote, location.as_ref()).await;
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        (self.hook)(Call::Reads, location.as_ref()).await;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        (self.hook)(Call::Reads, location.as_ref()).await;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let hook = Arc::clone(&self.hook);
        let hooked = locations.then(move |location| {
            let called = location.as_ref().ok().map(|location| hook(Call::Deletes, location.as_ref()));
            async move {
                if let Some(called) = called {
                    called.await;
                }
                location
            }
        });
        self.inner.delete_stream(hooked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
