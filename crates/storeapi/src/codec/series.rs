//! The codec of Series answers on the side that sends them: frames that are messages, and frames that are encoded already.

use tonic::Status;
use tonic::codec::{BufferSettings, Codec as TonicCodec, EncodeBuf, Encoder};

use super::{Codec, Reader, Writer};
use crate::encoded::WireFrame;
use crate::proto::thanos::{SeriesRequest, SeriesResponse};

/// A buffer of an answer, and how much of it is sent at once if there is more to send: each piece costs a turn of the connection, and a system call.
const BUFFER_BYTES: usize = 32 << 10;
const PIECE_BYTES: usize = 128 << 10;

#[derive(Debug, Default)]
pub(crate) struct SeriesCodec(Codec<SeriesResponse, SeriesRequest>);

impl TonicCodec for SeriesCodec {
    type Encode = WireFrame;
    type Decode = SeriesRequest;
    type Encoder = FrameWriter;
    type Decoder = Reader<SeriesRequest>;

    fn encoder(&mut self) -> FrameWriter {
        FrameWriter(self.0.encoder())
    }

    fn decoder(&mut self) -> Reader<SeriesRequest> {
        self.0.decoder()
    }
}

#[derive(Debug)]
pub(crate) struct FrameWriter(Writer<SeriesResponse>);

impl Encoder for FrameWriter {
    type Item = WireFrame;
    type Error = Status;

    fn encode(&mut self, frame: WireFrame, output: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match frame {
            WireFrame::Message(response) => self.0.encode(response, output),
            WireFrame::Series(series) => {
                output.reserve(series.encoded_len());
                series.write(output);
                Ok(())
            }
            WireFrame::Joined(frame) => {
                output.reserve(frame.encoded_len());
                frame.write(output);
                Ok(())
            }
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, PIECE_BYTES)
    }
}
