//! Answers of many small chunks over HTTP/1.1, from servers that say and do all sorts of things.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parallax_net::{BulkResponse, Error, HttpAuth, HttpClient, HttpClientConfig, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server does with a request that it has read.
#[derive(Clone)]
enum Act {
    /// Sends this, in pieces of so many bytes.
    Send(Vec<u8>, usize),
    Close,
    Wait,
}

type Serving = tokio::task::JoinHandle<Vec<String>>;

/// Serves connections one after the other; each does its acts, one per request, and closes.
async fn server(connections: Vec<Vec<Act>>) -> (HttpClient, Serving) {
    server_for(Duration::from_secs(60), connections).await
}

/// As [`server`], with a client that waits for no longer.
async fn server_for(patience: Duration, connections: Vec<Vec<Act>>) -> (HttpClient, Serving) {
    // Nobody else is given this port once the server has ended.
    let listener = TcpListener::bind(("127.0.0.1", free_port().unwrap())).await.unwrap();
    let config = HttpClientConfig {
        idle_timeout: patience,
        response_timeout: patience,
        auth: HttpAuth::Bearer { token: "secret".into() },
        ..HttpClientConfig::new(format!("http://{}/prom", listener.local_addr().unwrap()))
    };
    let serving = tokio::spawn(async move {
        let mut requests = Vec::new();
        for acts in connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            for act in acts {
                requests.push(request(&mut stream).await);
                match act {
                    Act::Send(bytes, piece) => {
                        for piece in bytes.chunks(piece) {
                            stream.write_all(piece).await.unwrap();
                            stream.flush().await.unwrap();
                            tokio::task::yield_now().await;
                        }
                    }
                    Act::Close => {}
                    Act::Wait => tokio::time::sleep(Duration::from_secs(60)).await,
                }
            }
        }
        requests
    });
    (HttpClient::new(config).unwrap(), serving)
}

/// One request with a body of four bytes.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nbody") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

async fn ask(client: &HttpClient) -> Result<BulkResponse, Error> {
    client.post_for_bulk("/api/v1/read", &[("x-kind", "test")], Bytes::from_static(b"body")).await
}

async fn whole(client: &HttpClient) -> Result<Vec<u8>, Error> {
    let (mut body, mut all) = (ask(client).await?.into_body(), BytesMut::new());
    while body.read(&mut all).await? {}
    assert!(!body.read(&mut all).await.unwrap(), "the end stays the end");
    Ok(all.to_vec())
}

fn chunked(parts: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut wire, mut body) =
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), Vec::new());
    for part in 0..parts {
        let bytes = vec![part as u8; 1 + part * 7 % 900];
        wire.extend(format!("{:x}\r\n", bytes.len()).into_bytes());
        wire.extend_from_slice(&bytes);
        wire.extend(b"\r\n");
        body.extend(bytes);
    }
    wire.extend(b"0\r\n\r\n");
    (wire, body)
}

#[tokio::test]
async fn chunks_are_put_together_and_the_connection_is_used_again() {
    let (wire, body) = chunked(500);
    let interim = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".to_vec();
    let counted = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole".to_vec();
    let acts = vec![
        Act::Send(wire.clone(), 1000),
        Act::Send([interim, wire].concat(), 7919),
        Act::Send(counted, 3),
        Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), 100),
    ];
    let (client, serving) = server(vec![acts]).await;
    assert_eq!(whole(&client).await.unwrap(), body);
    assert_eq!(whole(&client).await.unwrap(), body);
    assert_eq!(whole(&client).await.unwrap(), b"whole");
    assert_eq!(whole(&client).await.unwrap(), b"");
    let requests = serving.await.unwrap();
    assert_eq!(requests.len(), 4);
    assert!(
        requests[0].starts_with("POST /prom/api/v1/read HTTP/1.1\r\nhost: 127.0.0.1:"),
        "{}",
        requests[0]
    );
    for header in
        ["x-kind: test", "authorization: Bearer secret", "content-length: 4", "user-agent: parallax/"]
    {
        assert!(requests[0].contains(&format!("\r\n{header}")), "{header}: {}", requests[0]);
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_replaced_and_a_new_one_is_not_tried_twice() {
    let (wire, body) = chunked(3);
    let (client, serving) =
        server(vec![vec![Act::Send(wire.clone(), 100)], vec![Act::Send(wire, 100)], vec![Act::Close]]).await;
    assert_eq!(whole(&client).await.unwrap(), body);
    // The server has closed it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(whole(&client).await.unwrap(), body);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = ask(&client).await.unwrap_err().to_string();
    assert!(error.contains("/prom/api/v1/read: ") && error.contains("without an answer"), "{error}");
    assert_eq!(serving.await.unwrap().len(), 3);
    // Nobody listens any more.
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_may_not_be_followed_by_another_ends_its_connection() {
    let (wire, body) = chunked(3);
    let closing = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n".to_vec(), wire[17..].to_vec()].concat();
    let more = [wire.clone(), b"HTTP/1.1 200 OK\r\n\r\nsmuggled".to_vec()].concat();
    let until_close = b"HTTP/1.0 200 OK\r\n\r\nall of it".to_vec();
    let each = [closing, more, until_close, wire].map(|bytes| vec![Act::Send(bytes, 100_000)]);
    let (client, serving) = server(each.into()).await;
    assert_eq!(whole(&client).await.unwrap(), body);
    assert_eq!(whole(&client).await.unwrap(), body);
    assert_eq!(whole(&client).await.unwrap(), b"all of it");
    assert_eq!(whole(&client).await.unwrap(), body);
    assert_eq!(serving.await.unwrap().len(), 4);
}

#[tokio::test]
async fn what_is_cut_malformed_or_silent_is_an_error_that_says_so() {
    let (wire, _) = chunked(5);
    let cut = wire[..wire.len() - 5].to_vec();
    for (act, expected) in [
        (Act::Send(cut, 50), "broke off: the connection closed before the answer was complete"),
        (Act::Send(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), 50), "within its headers"),
        (Act::Send(b"SSH-2.0-x\r\n\r\n".to_vec(), 50), "is not HTTP"),
        (
            Act::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), 50),
            "size of a chunk",
        ),
        (
            Act::Send([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'a'; 70_000]].concat(), 9000),
            "headers are larger",
        ),
    ] {
        let (client, serving) = server(vec![vec![act]]).await;
        let error = whole(&client).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        serving.abort();
    }
}

#[tokio::test]
async fn silence_before_and_within_an_answer_is_an_error_that_says_so() {
    let patience = Duration::from_secs(2);
    let (client, serving) = server_for(patience, vec![vec![Act::Wait]]).await;
    let error = ask(&client).await.unwrap_err().to_string();
    assert!(error.contains("no answer within 2 s"), "{error}");
    serving.abort();
    let (wire, _) = chunked(5);
    // It is still open after that: the server waits for the next request.
    let begun = Act::Send(wire[..wire.len() - 5].to_vec(), 50);
    let (client, serving) = server_for(patience, vec![vec![begun, Act::Wait]]).await;
    let (mut body, mut all) = (ask(&client).await.unwrap().into_body(), BytesMut::new());
    let error = loop {
        match body.read(&mut all).await {
            Ok(more) => assert!(more),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("no further part of the answer within 2 s"), "{error}");
    serving.abort();
}

#[tokio::test]
async fn bodies_of_errors_are_read_up_to_a_bound() {
    let refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\n\r\nbecause of x".to_vec();
    let (client, _serving) = server(vec![vec![Act::Send(refusal.clone(), 5), Act::Send(refusal, 5)]]).await;
    let response = ask(&client).await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(response.text_prefix(7).await, "because");
    let (wire, body) = chunked(20);
    let (client, _serving) = server(vec![vec![Act::Send(wire.clone(), 900), Act::Send(wire, 900)]]).await;
    assert_eq!(ask(&client).await.unwrap().bytes(body.len()).await.unwrap(), body);
    let error = ask(&client).await.unwrap().bytes(body.len() - 1).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}
