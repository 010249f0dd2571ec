//! A TCP hop with weather: bytes in pieces, with pauses; connections that are cut in the middle of a frame, stall, or are refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Pace, Sky, State, Weather};
use crate::seeded::Seeded;

/// The longest piece that is carried at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Of a hundred connections in a storm: are refused, …
const REFUSED: u64 = 10;
/// …and of a hundred directions of the others are cut, …
const CUT: u64 = 20;
/// …stall, …
const STALLED: u64 = 10;
/// …and are slow.
const SLOW: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What happens to one way of a connection once its pace has run out.
#[derive(Clone, Copy, Debug)]
enum Then {
    Cut,
    /// Until the weather changes; what was held back passes then.
    Stall,
}

/// Never ends by itself; its connections end with it.
pub(super) async fn pass_on(listener: TcpListener, upstream: String, state: Arc<State>) {
    let mut open = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while open.try_join_next().is_some() {}
        let number = state.connections.fetch_add(1, Ordering::Relaxed);
        let sky = *state.sky.borrow();
        let mut row = row(&state, sky, number).row(2);
        if sky.weather == Weather::Storm && row.percent(REFUSED) {
            state.count();
            continue;
        }
        let (upstream, state) = (upstream.clone(), Arc::clone(&state));
        open.spawn(async move {
            let Ok(server) = TcpStream::connect(upstream).await else { return };
            let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            // Whichever way ends first ends the other: HTTP/2 closes no halves.
            tokio::select! {
                () = carry(from_client, to_server, &state, (number, Way::Up)) => {}
                () = carry(from_server, to_client, &state, (number, Way::Down)) => {}
            }
        });
    }
}

fn row(state: &State, sky: Sky, connection: u64) -> Seeded {
    state.rows.row(1).row(sky.number).row(connection)
}

fn draw(state: &State, sky: Sky, (connection, way): (u64, Way)) -> (Pace, Then) {
    let mut row = row(state, sky, connection).row(way as u64);
    match sky.weather {
        Weather::Calm => (Pace::WHOLE, Then::Stall),
        Weather::Slow => (Pace::slow(&mut row), Then::Stall),
        Weather::Storm => match row.below(100) {
            drawn if drawn < CUT => (Pace::until(&mut row), Then::Cut),
            drawn if drawn < CUT + STALLED => (Pace::until(&mut row), Then::Stall),
            drawn if drawn < CUT + STALLED + SLOW => (Pace::slow(&mut row), Then::Stall),
            _ => (Pace::WHOLE, Then::Stall),
        },
    }
}

/// Carries bytes one way until either end closes, or the weather cuts it.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, which: (u64, Way)) {
    let mut changes = state.sky.subscribe();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let sky = *changes.borrow_and_update();
        let (mut pace, then) = draw(state, sky, which);
        loop {
            if pace.left_bytes == 0 {
                state.count();
                match then {
                    Then::Cut => return,
                    Then::Stall => {
                        if changes.changed().await.is_err() {
                            return;
                        }
                        break;
                    }
                }
            }
            let most = pace.piece_bytes.min(pace.left_bytes).min(BUFFER_BYTES);
            let read = tokio::select! {
                biased;
                changed = changes.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                read = from.read(&mut buffer[..most]) => read,
            };
            let Ok(count @ 1..) = read else { return };
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            pace.left_bytes = pace.left_bytes.saturating_sub(count);
            if let Some(pause) = pace.pause {
                tokio::time::sleep(pause).await;
            }
        }
    }
}
