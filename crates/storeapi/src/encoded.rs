//! Series that are in the form of the wire already, for stores that pass on what others have encoded.
//!
//! A store whose source speaks protobuf, too, need not take every label and chunk apart to have them put together again: it writes the bytes of the answer
//! from the bytes that it read ([`Splice`]). [`Outbox`] keeps such series in order, as [`crate::Resorter`] does for decoded ones, and cuts them
//! into frames. A store that joins the series of several sources encodes them where it reads them ([`Packed`]), and joins bytes ([`Joined`]). What is written is what `codec` would write of the same series.

use bytes::{BufMut, Bytes};
use futures::StreamExt as _;
use prost::Message as _;
use prost::encoding::encoded_len_varint;
use tonic::Status;

use crate::codec::write_response;
use crate::proto::thanos::SeriesResponse;
use crate::{FrameStream, SeriesStream};

mod field;
mod outbox;
mod packed;
mod splice;

pub use crate::codec::write::write_label;
pub use field::append_aggregates;
pub use outbox::Outbox;
pub use packed::{Joined, JoinedFrame, Packed, PackedChunk, Packer, Piece, Pieces};
pub use splice::{ChunkBytes, Splice, compare, display, label_texts};

/// The frames of a Series answer on their way out of the process.
pub type WireStream = FrameStream<WireFrame>;

/// One frame.
#[derive(Clone, Debug)]
pub enum WireFrame {
    Message(SeriesResponse),
    Series(EncodedSeries),
    Joined(JoinedFrame),
}

/// One encoded series, or a batch of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedSeries {
    /// Each as the field of number 1 that holds a series, in `SeriesResponse` as in `SeriesBatch`.
    fields: Bytes,
    is_batch: bool,
}

/// Key of `SeriesResponse.batch`.
const BATCH_KEY: u8 = 4 << 3 | 2;

impl EncodedSeries {
    /// Bytes of the message.
    pub fn encoded_len(&self) -> usize {
        match self.is_batch {
            true => 1 + encoded_len_varint(self.fields.len() as u64) + self.fields.len(),
            false => self.fields.len(),
        }
    }

    pub(crate) fn write(&self, output: &mut impl BufMut) {
        if self.is_batch {
            output.put_u8(BATCH_KEY);
            prost::encoding::encode_varint(self.fields.len() as u64, output);
        }
        output.put_slice(&self.fields);
    }
}

impl WireFrame {
    /// The message that is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut message = Vec::new();
        match self {
            Self::Message(response) => write_response(response, &mut message),
            Self::Series(series) => series.write(&mut message),
            Self::Joined(frame) => frame.write(&mut message),
        }
        message
    }
}

/// The frames of a store that has them decoded.
pub fn from_decoded(stream: SeriesStream) -> WireStream {
    Box::pin(stream.map(|frame| frame.map(WireFrame::Message)))
}

/// As whoever receives them sees them.
pub fn decoded(stream: WireStream) -> SeriesStream {
    Box::pin(stream.map(|frame| match frame? {
        WireFrame::Message(response) => Ok(response),
        WireFrame::Joined(frame) => frame.message(),
        series @ WireFrame::Series(_) => {
            SeriesResponse::decode(Bytes::from(series.to_bytes())).map_err(|error| {
                Status::internal(format!("a frame of series that was written wrong: {error}"))
            })
        }
    }))
}
