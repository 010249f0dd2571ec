//! The gRPC codec of all services here: protobuf as prost reads and writes it, with faster ways to write (`write`) and read (`read`) the frames of
//! Series answers, which are nearly all that travels. Both are held to what prost does (`tests/codec.rs`).

use std::any::{Any, TypeId};
use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec as TonicCodec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::decoded;
use crate::proto::thanos::SeriesResponse;

mod read;
mod series;
pub(crate) mod write;

pub(crate) use read::read_fields;
pub use read::read_response;
pub(crate) use series::SeriesCodec;
pub use write::write_response;

/// Writes `T` and reads `U`.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> TonicCodec for Codec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Writer<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> Writer<T> {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader(PhantomData)
    }
}

/// Writes messages to where they are sent from.
#[derive(Debug)]
pub struct Writer<T>(PhantomData<T>);

impl<T: Message + 'static> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, output: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match (&item as &dyn Any).downcast_ref::<SeriesResponse>() {
            Some(response) => write::write_frame(response, output),
            None => {
                output.reserve(item.encoded_len());
                item.encode_raw(output);
            }
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Reads messages, whose text and data share the frame's buffer. One that would take far more memory than its bytes is refused before.
#[derive(Debug)]
pub struct Reader<U>(PhantomData<U>);

impl<U: Message + Default + 'static> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let frame = input.copy_to_bytes(input.remaining());
        decoded::check::<U>(&frame)?;
        if let Some(response) = own::<U>(&frame) {
            return Ok(Some(response));
        }
        // As tonic's own codec has it: what cannot be read is an internal error.
        U::decode(frame).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// A frame of series, read in our own way.
fn own<U: 'static>(frame: &Bytes) -> Option<U> {
    if TypeId::of::<U>() != TypeId::of::<SeriesResponse>() {
        return None;
    }
    let mut response = read_response(frame);
    (&mut response as &mut dyn Any).downcast_mut::<Option<U>>()?.take()
}
