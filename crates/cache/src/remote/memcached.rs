//! memcached's text protocol: `get` of several keys, `set`.
//!
//! Source: memcached's `doc/protocol.txt`.

use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Connection, wrong};

/// Longer times to live would be read as points in time.
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// The values of `names`, in their order.
pub(super) async fn get(
    connection: &mut Connection,
    names: &[&str],
    max_bytes: u64,
) -> io::Result<Vec<Option<Bytes>>> {
    connection.send(format!("get {}\r\n", names.join(" ")).as_bytes()).await?;
    let mut values = vec![None; names.len()];
    // One line for each value, and the last one.
    for _ in 0..=names.len() {
        let line = connection.line().await?;
        if line == "END" {
            return Ok(values);
        }
        let mut words = line.split(' ');
        let (Some("VALUE"), Some(name), Some(_flags), Some(size)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(answered(&line));
        };
        let size: u64 = size.parse().map_err(|_| wrong("a size that is no number"))?;
        let value = connection.block(size, max_bytes).await?;
        let mut known = false;
        for (place, wanted) in values.iter_mut().zip(names) {
            if *wanted == name {
                *place = Some(value.clone());
                known = true;
            }
        }
        if !known {
            return Err(wrong("a value that was not asked for"));
        }
    }
    Err(wrong("more values than were asked for"))
}

pub(super) async fn set(
    connection: &mut Connection,
    name: &str,
    value: &[u8],
    ttl: Duration,
) -> io::Result<()> {
    let seconds = ttl.min(MAX_TTL).as_secs().max(1);
    let mut request = format!("set {name} 0 {seconds} {}\r\n", value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    connection.send(&request).await?;
    let line = connection.line().await?;
    if line == "STORED" { Ok(()) } else { Err(answered(&line)) }
}

fn answered(line: &str) -> io::Error {
    io::Error::other(format!("memcached answered {line:?}"))
}
