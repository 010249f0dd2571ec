use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parallax_bucket::Bucket;
use parallax_tsdb::chunk::encode_xor;
use parallax_tsdb::segment::{ChunkRef, SegmentConfig, SegmentWriter};

use super::*;

const BLOCK: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";

const WINDOW_BYTES: usize = 64 << 10;

/// What was read and is still in memory.
#[derive(Clone, Debug, Default)]
struct Live(Arc<AtomicUsize>);

impl Live {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

struct Piece {
    bytes: Vec<u8>,
    live: Live,
}

impl Piece {
    fn new(bytes: Vec<u8>, live: &Live) -> Self {
        live.0.fetch_add(bytes.len(), Ordering::SeqCst);
        Self { bytes, live: live.clone() }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.live.0.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

/// Hands out each range as memory of its own.
#[derive(Debug)]
struct Counting {
    inner: InMemory,
    live: Live,
}

impl std::fmt::Display for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let found = self.inner.get_opts(location, options).await?;
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let extensions = found.extensions.clone();
        let piece = Bytes::from_owner(Piece::new(found.bytes().await?.to_vec(), &self.live));
        let payload = GetResultPayload::Stream(futures::stream::iter([Ok(piece)]).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
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

/// The sample of each chunk of [`segment`].
const SAMPLE: (i64, f64) = (1000, 0.5);

/// A segment of so many chunks; where they stand, and the segment.
fn segment(chunks: usize) -> (Vec<ChunkRef>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(dir.path(), SegmentConfig::default()).unwrap();
    let data = encode_xor(&[SAMPLE]).unwrap();
    let refs = writer.write_series(&vec![(ChunkEncoding::Xor, data.as_slice()); chunks]).unwrap();
    writer.finish().unwrap();
    (refs, std::fs::read(dir.path().join(segment_name(0))).unwrap())
}

/// Reads chunks in this order, and keeps them; gives how many bytes they have, and how many of what was read stay in memory for their sake.
fn kept_and_pinned(segment: &[u8], chunks: impl IntoIterator<Item = ChunkRef>) -> (usize, usize) {
    let live = Live::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = Counting { inner: InMemory::new(), live: live.clone() };
    let bucket = Bucket::new(Arc::new(store), "", "memory").unwrap();
    let block: BlockId = BLOCK.parse().unwrap();
    let object = block.object(&format!("{CHUNKS_DIRECTORY}/{}", segment_name(0)));
    runtime.block_on(bucket.put(&object, segment.to_vec().into())).unwrap();
    let reading = Reading {
        chunk_window_bytes: WINDOW_BYTES as u64,
        ..Reading::new(bucket, runtime.handle().clone(), 1)
    };
    let mut reader = SegmentsReader::new(reading, block, false);
    let time_ms = SAMPLE.0;
    let kept: Vec<Chunk> = chunks
        .into_iter()
        .map(|chunk_ref| {
            let meta = ChunkMeta { chunk_ref, min_time_ms: time_ms, max_time_ms: time_ms };
            reader.chunk(&meta).unwrap().unwrap()
        })
        .collect();
    drop(reader);
    // What was on its way ends with the runtime.
    drop(runtime);
    let pinned = live.bytes();
    let kept_bytes = kept.iter().map(|chunk| chunk.data.len()).sum();
    drop(kept);
    assert_eq!(live.bytes(), 0);
    (kept_bytes, pinned)
}

#[test]
fn chunks_read_to_and_fro_do_not_pin_a_window_each() {
    let (refs, segment) = segment(20_000);
    assert!(segment.len() > 4 * WINDOW_BYTES);
    let (first, last) = (refs[0], refs[refs.len() - 1]);
    let (kept_bytes, pinned_bytes) =
        kept_and_pinned(&segment, (0..2000).map(|read| if read % 2 == 0 { first } else { last }));
    assert!(pinned_bytes <= 16 * kept_bytes, "{pinned_bytes} bytes for {kept_bytes}");
}

#[test]
fn a_chunk_of_each_window_does_not_pin_it() {
    let (refs, segment) = segment(20_000);
    let (kept_bytes, pinned_bytes) = kept_and_pinned(&segment, refs.iter().step_by(1000).copied());
    assert!(pinned_bytes <= 16 * kept_bytes, "{pinned_bytes} bytes for {kept_bytes}");
}

#[test]
fn chunks_read_one_after_the_other_share_their_windows() {
    let (refs, segment) = segment(20_000);
    let (_, pinned_bytes) = kept_and_pinned(&segment, refs);
    // The first request is the one for the segment's header, which reads a window too.
    assert_eq!(pinned_bytes, segment.len());
}
