//! Where the body of an HTTP/1.1 answer begins and ends, and what of the bytes on the connection belongs to it.
//!
//! Source: RFC 9112, sections 6 and 7. Nothing is guessed: an answer whose length is told twice and differently, a coding other than `chunked`, and
//! chunks that do not follow the grammar are errors.

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

/// Longest line of a chunk's size with its extensions, and longest trailer section.
const MAX_LINE_BYTES: usize = 8 << 10;

/// How the rest of a body is told from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunk),
    /// All until the connection closes.
    UntilClose,
    Done,
}

/// What of a chunked body comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    /// So many bytes of a chunk are left.
    Data(u64),
    /// The line end after a chunk's bytes.
    End,
    Trailers,
}

impl Framing {
    /// Errors: a text that says what cannot be followed.
    pub(super) fn of(status: StatusCode, version: Version, headers: &HeaderMap) -> Result<Self, String> {
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Self::Done);
        }
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            // A length beside it has been used to smuggle one answer inside another.
            if !is_chunked || version != Version::HTTP_11 || headers.contains_key(CONTENT_LENGTH) {
                return Err(format!("the answer's transfer coding {coding:?} cannot be followed"));
            }
            return Ok(Self::Chunked(Chunk::Size));
        }
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let Some(first) = lengths.next() else { return Ok(Self::UntilClose) };
        let length = first.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match length.and_then(|text| text.parse().ok()) {
            Some(length) if lengths.all(|other| other == first) => Ok(Self::of_length(length)),
            _ => Err(format!("the answer's length {first:?} cannot be followed")),
        }
    }

    fn of_length(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    /// Moves what `raw` has of the body to the end of `body`. Errors: a text that says what is malformed.
    pub(super) fn decode(&mut self, raw: &mut BytesMut, body: &mut BytesMut) -> Result<(), String> {
        loop {
            match self {
                Self::Done => return Ok(()),
                Self::UntilClose => {
                    body.extend_from_slice(raw);
                    raw.clear();
                    return Ok(());
                }
                Self::Length(left) => {
                    if raw.is_empty() {
                        return Ok(());
                    }
                    *self = Self::of_length(take(raw, *left, body));
                }
                Self::Chunked(chunk) => match chunk.advance(raw, body)? {
                    Step::More => return Ok(()),
                    Step::Next(next) => *chunk = next,
                    Step::Done => *self = Self::Done,
                },
            }
        }
    }

    /// What it means that the peer has closed the connection.
    pub(super) fn close(&mut self) -> Result<(), &'static str> {
        match self {
            Self::UntilClose | Self::Done => {
                *self = Self::Done;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err("the connection closed before the answer was complete"),
        }
    }
}

enum Step {
    /// Nothing further without more bytes.
    More,
    Next(Chunk),
    Done,
}

impl Chunk {
    fn advance(self, raw: &mut BytesMut, body: &mut BytesMut) -> Result<Step, String> {
        match self {
            Self::Size => match httparse::parse_chunk_size(raw) {
                Ok(httparse::Status::Complete((line, size))) => {
                    raw.advance(line);
                    Ok(Step::Next(if size == 0 { Self::Trailers } else { Self::Data(size) }))
                }
                Ok(httparse::Status::Partial) => within(raw),
                Err(_) => Err("the size of a chunk is malformed".to_owned()),
            },
            Self::Data(_) if raw.is_empty() => Ok(Step::More),
            Self::Data(left) => match take(raw, left, body) {
                0 => Ok(Step::Next(Self::End)),
                left => Ok(Step::Next(Self::Data(left))),
            },
            Self::End => match raw.first_chunk() {
                Some(b"\r\n") => {
                    raw.advance(2);
                    Ok(Step::Next(Self::Size))
                }
                Some(_) => Err("a chunk is longer than it says".to_owned()),
                None => Ok(Step::More),
            },
            // Trailers say nothing that is used here.
            Self::Trailers => match raw.windows(2).position(|pair| pair == b"\r\n") {
                Some(0) => {
                    raw.advance(2);
                    Ok(Step::Done)
                }
                Some(line) if line <= MAX_LINE_BYTES => {
                    raw.advance(line + 2);
                    Ok(Step::Next(Self::Trailers))
                }
                Some(_) => Err("a trailer is too long".to_owned()),
                None => within(raw),
            },
        }
    }
}

/// A line that has not ended yet.
fn within(raw: &BytesMut) -> Result<Step, String> {
    if raw.len() > MAX_LINE_BYTES {
        return Err(format!("a line of more than {MAX_LINE_BYTES} bytes among the chunks"));
    }
    Ok(Step::More)
}

/// Moves at most `left` bytes; says how many are left.
fn take(raw: &mut BytesMut, left: u64, body: &mut BytesMut) -> u64 {
    let size = usize::try_from(left).unwrap_or(usize::MAX).min(raw.len());
    body.extend_from_slice(raw.get(..size).unwrap_or_default());
    raw.advance(size);
    left - size as u64
}

/// Whether the connection can serve another request after this answer.
pub(super) fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let closes = headers.get_all(CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
    });
    version == Version::HTTP_11 && !closes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn framing(pairs: &[(&'static str, &'static str)]) -> Result<Framing, String> {
        Framing::of(StatusCode::OK, Version::HTTP_11, &headers(pairs))
    }

    #[test]
    fn what_ends_a_body_is_read_from_its_headers_and_never_guessed() {
        assert_eq!(framing(&[("transfer-encoding", "Chunked")]), Ok(Framing::Chunked(Chunk::Size)));
        assert_eq!(framing(&[("content-length", "7")]), Ok(Framing::Length(7)));
        assert_eq!(framing(&[("content-length", "7"), ("content-length", "7")]), Ok(Framing::Length(7)));
        assert_eq!(framing(&[("content-length", "0")]), Ok(Framing::Done));
        assert_eq!(framing(&[]), Ok(Framing::UntilClose));
        assert_eq!(Framing::of(StatusCode::NO_CONTENT, Version::HTTP_11, &headers(&[])), Ok(Framing::Done));
        for bad in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("content-length", "7")],
            &[("content-length", "7"), ("content-length", "8")],
            &[("content-length", "+7")],
            &[("content-length", "99999999999999999999")],
        ] {
            assert!(framing(bad).is_err(), "{bad:?}");
        }
        let chunked = headers(&[("transfer-encoding", "chunked")]);
        assert!(Framing::of(StatusCode::OK, Version::HTTP_10, &chunked).is_err());
        assert!(keeps_alive(Version::HTTP_11, &headers(&[])));
        assert!(!keeps_alive(Version::HTTP_11, &headers(&[("connection", "x, Close")])));
        assert!(!keeps_alive(Version::HTTP_10, &headers(&[])));
    }

    /// Feeds `bytes` in pieces; gives the body, what is left over, and the framing after it.
    fn feed(mut framing: Framing, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, Framing), String> {
        let (mut raw, mut body) = (BytesMut::new(), BytesMut::new());
        for part in bytes.chunks(piece) {
            raw.extend_from_slice(part);
            framing.decode(&mut raw, &mut body)?;
        }
        Ok((body.to_vec(), raw.to_vec(), framing))
    }

    #[test]
    fn malformed_chunks_are_errors() {
        let chunked = Framing::Chunked(Chunk::Size);
        for bad in ["x\r\n", "3\r\nabcd\r\n", "3\r\nabc\n\n", "11111111111111111\r\n", "-1\r\n"] {
            assert!(feed(chunked, bad.as_bytes(), 1).is_err(), "{bad:?}");
        }
        let endless = [b"3;".as_slice(), &[b'a'; 9000]].concat();
        assert!(feed(chunked, &endless, 100).is_err());
        let trailer = [b"0\r\n".as_slice(), &[b'a'; 9000]].concat();
        assert!(feed(chunked, &trailer, 100).is_err());
        let (mut cut, mut whole) = (Framing::Chunked(Chunk::Data(3)), Framing::UntilClose);
        assert!(cut.close().is_err());
        assert_eq!((whole.close(), whole), (Ok(()), Framing::Done));
    }

    proptest! {
        #[test]
        fn chunks_of_any_size_arriving_in_any_pieces_are_the_body(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            has_trailer in any::<bool>(),
            piece in 1usize..400,
        ) {
            let mut wire = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                let extension = if index % 2 == 0 { "" } else { ";a=b" };
                wire.extend_from_slice(format!("{:x}{extension}\r\n", part.len()).as_bytes());
                wire.extend_from_slice(part);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(if has_trailer { b"0\r\nx: y\r\n\r\n" } else { b"0\r\n\r\n" });
            wire.extend_from_slice(b"next");
            let (body, left, framing) = feed(Framing::Chunked(Chunk::Size), &wire, piece).unwrap();
            prop_assert_eq!(body, parts.concat());
            prop_assert_eq!((left, framing), (b"next".to_vec(), Framing::Done));
        }

        #[test]
        fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            for framing in [Framing::Chunked(Chunk::Size), Framing::Length(7), Framing::UntilClose] {
                let _ = feed(framing, &bytes, piece);
            }
        }
    }
}
