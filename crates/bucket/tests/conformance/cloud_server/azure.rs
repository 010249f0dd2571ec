//! Azure's Blob service: Shared Key, lists with markers, block lists, conditional writes, deletion by batch.
//!
//! Source: Microsoft's "Blob service REST API". That a Shared Key signature is right is not checked here, only who signs.

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;

use super::signature::decode;
use super::{Answer, Object, State, answer, error, escape};

pub const ACCOUNT: &str = "account";
/// "hunter2" in base 64.
pub const ACCOUNT_KEY: &str = "aHVudGVyMg==";
pub const CONTAINER: &str = "blocks";
const MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// Who may ask.
pub fn check(head: &Parts, query: &[(String, String)]) -> Result<(), (StatusCode, &'static str)> {
    let authorization = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    let is_signed = query.iter().any(|(name, _)| name == "sig");
    let is_known = authorization.is_some_and(|text| text.starts_with(&format!("SharedKey {ACCOUNT}:")));
    if is_known || is_signed { Ok(()) } else { Err((StatusCode::FORBIDDEN, "AuthenticationFailed")) }
}

impl State {
    pub(super) fn dispatch_azure(&self, head: &Parts, query: &[(String, String)], body: Bytes) -> Answer {
        let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let path = head.uri.path().trim_start_matches('/');
        let (container, key) = path.split_once('/').unwrap_or((path, ""));
        if container != CONTAINER {
            return error(StatusCode::NOT_FOUND, "ContainerNotFound");
        }
        let key = decode(key);
        match (head.method.as_str(), get("comp")) {
            ("GET", Some("list")) => self.list_blobs(get("prefix").unwrap_or_default(), query),
            ("POST", Some("batch")) => self.delete_batch(head, &body),
            ("GET" | "HEAD", None) => self.get(&key, head),
            ("PUT", Some("block")) => {
                let id = get("blockid").unwrap_or_default().to_owned();
                let mut blocks = self.blocks.lock().unwrap();
                blocks.insert((key, id), body);
                answer(StatusCode::CREATED, "")
            }
            ("PUT", Some("blocklist")) => self.put_block_list(key, head, &String::from_utf8_lossy(&body)),
            ("PUT", None) if head.headers.get("x-ms-blob-type").is_some_and(|kind| kind == "BlockBlob") => {
                self.put(key, head, body)
            }
            _ => error(StatusCode::BAD_REQUEST, "InvalidInput"),
        }
    }

    fn put_block_list(&self, key: String, head: &Parts, xml: &str) -> Answer {
        let mut blocks = self.blocks.lock().unwrap();
        let mut whole = Vec::new();
        for id in xml.split("<Uncommitted>").skip(1).filter_map(|rest| rest.split('<').next()) {
            let Some(block) = blocks.remove(&(key.clone(), id.to_owned())) else {
                return error(StatusCode::BAD_REQUEST, "InvalidBlockList");
            };
            whole.extend_from_slice(&block);
        }
        drop(blocks);
        self.put(key, head, whole.into())
    }

    fn list_blobs(&self, prefix: &str, query: &[(String, String)]) -> Answer {
        let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        // A list begins with `startFrom`, that name included, and goes on behind a marker.
        let (marker, start) = (get("marker"), get("startFrom"));
        let (page, next) = self.page(prefix, get("delimiter"), |name| {
            marker.is_none_or(|marker| name > marker)
                && start.is_none_or(|start| marker.is_some() || name >= start)
        });
        let (mut blobs, mut directories) = (String::new(), String::new());
        for (name, object) in page {
            let name = escape(&name);
            match object {
                None => directories.push_str(&format!("<BlobPrefix><Name>{name}</Name></BlobPrefix>")),
                Some(Object { bytes, tag, .. }) => blobs.push_str(&format!(
                    "<Blob><Name>{name}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified><Content-Length>{}</Content-Length>\
                     <Content-Type>application/octet-stream</Content-Type><Etag>{}</Etag></Properties></Blob>",
                    bytes.len(),
                    escape(&tag)
                )),
            }
        }
        let next = escape(&next.unwrap_or_default());
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blobs}{directories}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
        );
        answer(StatusCode::OK, xml)
    }

    /// Requests within a request, each with its own line and headers.
    fn delete_batch(&self, head: &Parts, body: &[u8]) -> Answer {
        let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let boundary = kind.split("boundary=").nth(1).unwrap_or_default();
        let text = String::from_utf8_lossy(body);
        let mut results = String::new();
        for part in text.split(&format!("--{boundary}\r\n")).skip(1) {
            let id =
                part.lines().find_map(|line| line.strip_prefix("Content-ID: ")).unwrap_or_default().trim();
            let path = part.lines().find_map(|line| line.strip_prefix("DELETE ")?.split(' ').next());
            let path =
                path.and_then(|path| path.split('?').next()).unwrap_or_default().trim_start_matches('/');
            let key = path.strip_prefix(CONTAINER).and_then(|rest| rest.strip_prefix('/')).map(decode);
            let removed = key.and_then(|key| self.objects.lock().unwrap().remove(&key));
            let status =
                if removed.is_some() { "202 Accepted" } else { "404 The specified blob does not exist." };
            results.push_str(&format!(
                "--batchresponse\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {status}\r\nx-ms-version: 2018-11-09\r\n\r\n"
            ));
        }
        results.push_str("--batchresponse--\r\n");
        let mut answer = answer(StatusCode::ACCEPTED, results);
        answer
            .headers_mut()
            .insert("content-type", "multipart/mixed; boundary=batchresponse".parse().unwrap());
        answer
    }
}
