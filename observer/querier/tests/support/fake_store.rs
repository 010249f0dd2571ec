//! A store that answers what a test says, and may hang.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    AggrChunk, Chunk, Label, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse,
    Series, SeriesBatch, SeriesRequest, SeriesResponse, series_response,
};
use parallax_storeapi::withhold::{withhold, withholds_from};
use parallax_storeapi::{SeriesStream as Frames, Store};
use parallax_tsdb::chunk::XorAppender;
use tonic::{Request, Status};

pub type Frame = Result<SeriesResponse, Status>;

/// Sends given frames, then ends or hangs; remembers what it was asked, and whether its stream was dropped.
#[derive(Default)]
pub struct FakeStore {
    pub frames: Vec<Frame>,
    pub hangs: bool,
    pub info: InfoResponse,
    pub label_answer: LabelNamesResponse,
    pub asked: Mutex<Option<SeriesRequest>>,
    pub dropped: Arc<AtomicBool>,
    /// Calls for series, and those of them that let it keep chunks back: then it does.
    pub calls: AtomicUsize,
    pub withholding_calls: AtomicUsize,
}

struct Watched(Frames, Arc<AtomicBool>);

impl Stream for Watched {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.0.as_mut().poll_next(context)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(self.info.clone())
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<Frames, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut frames = self.frames.clone();
        if let Some(from_ms) = withholds_from(request.metadata()) {
            self.withholding_calls.fetch_add(1, Ordering::SeqCst);
            frames.iter_mut().for_each(|frame| withhold_of(frame, from_ms));
        }
        *self.asked.lock().unwrap() = Some(request.into_inner());
        let frames = futures::stream::iter(frames);
        let frames: Frames =
            if self.hangs { Box::pin(frames.chain(futures::stream::pending())) } else { Box::pin(frames) };
        Ok(Box::pin(Watched(frames, self.dropped.clone())))
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Ok(self.label_answer.clone())
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        let LabelNamesResponse { names: values, warnings, hints } = self.label_answer.clone();
        Ok(LabelValuesResponse { values, warnings, hints })
    }
}

fn withhold_of(frame: &mut Frame, from_ms: i64) {
    if let Ok(SeriesResponse { result: Some(series_response::Result::Batch(batch)) }) = frame {
        batch.series.iter_mut().for_each(|series| withhold(series, from_ms));
    }
}

pub fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Series {
    let bytes = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    let mut appender = XorAppender::new();
    for (time_ms, value) in samples {
        appender.append(*time_ms, *value).unwrap();
    }
    Series {
        labels: labels.iter().map(|(name, value)| Label { name: bytes(name), value: bytes(value) }).collect(),
        chunks: vec![AggrChunk {
            min_time: samples.first().unwrap().0,
            max_time: samples.last().unwrap().0,
            raw: Some(Chunk { data: appender.into_bytes().into(), ..Chunk::default() }),
            ..AggrChunk::default()
        }],
    }
}

pub fn frame(series: Vec<Series>) -> Frame {
    Ok(SeriesResponse { result: Some(series_response::Result::Batch(SeriesBatch { series })) })
}

pub fn warning(text: &str) -> Frame {
    Ok(SeriesResponse { result: Some(series_response::Result::Warning(text.to_owned())) })
}
