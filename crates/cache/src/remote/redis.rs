//! Redis' protocol (RESP 2): `AUTH`, `SELECT`, `MGET`, `SET … PX`.
//!
//! Source: Redis' "Redis serialization protocol specification".

use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Connection, wrong};

/// Makes a new connection usable.
pub(super) async fn login(
    connection: &mut Connection,
    username: &str,
    password: &str,
    database: u32,
) -> io::Result<()> {
    match (username, password) {
        ("", "") => {}
        ("", password) => done(connection, &[b"AUTH", password.as_bytes()]).await?,
        (username, password) => {
            done(connection, &[b"AUTH", username.as_bytes(), password.as_bytes()]).await?;
        }
    }
    if database > 0 {
        done(connection, &[b"SELECT", database.to_string().as_bytes()]).await?;
    }
    Ok(())
}

/// The values of `names`, in their order.
pub(super) async fn get(
    connection: &mut Connection,
    names: &[&str],
    max_bytes: u64,
) -> io::Result<Vec<Option<Bytes>>> {
    let mut words: Vec<&[u8]> = vec![b"MGET"];
    words.extend(names.iter().map(|name| name.as_bytes()));
    send(connection, &words).await?;
    let line = connection.line().await?;
    let Some(count) = line.strip_prefix('*') else { return Err(answered(&line)) };
    if count.parse() != Ok(names.len()) {
        return Err(wrong("another number of values than were asked for"));
    }
    let mut values = Vec::with_capacity(names.len());
    for _ in names {
        let line = connection.line().await?;
        values.push(match line.strip_prefix('$') {
            Some("-1") => None,
            Some(size) => {
                let size = size.parse().map_err(|_| wrong("a size that is no number"))?;
                Some(connection.block(size, max_bytes).await?)
            }
            None => return Err(answered(&line)),
        });
    }
    Ok(values)
}

pub(super) async fn set(
    connection: &mut Connection,
    name: &str,
    value: &[u8],
    ttl: Duration,
) -> io::Result<()> {
    let ms = ttl.as_millis().max(1).to_string();
    done(connection, &[b"SET", name.as_bytes(), value, b"PX", ms.as_bytes()]).await
}

async fn done(connection: &mut Connection, words: &[&[u8]]) -> io::Result<()> {
    send(connection, words).await?;
    let line = connection.line().await?;
    if line == "+OK" { Ok(()) } else { Err(answered(&line)) }
}

async fn send(connection: &mut Connection, words: &[&[u8]]) -> io::Result<()> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    connection.send(&request).await
}

/// Redis' errors name what is wrong, never a password.
fn answered(line: &str) -> io::Error {
    io::Error::other(format!("redis answered {:?}", line.trim_start_matches('-')))
}
