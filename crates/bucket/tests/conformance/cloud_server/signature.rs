//! Checking version 4 signatures, from Amazon's specification; shares no code with the client that makes them.

use http::StatusCode;
use http::request::Parts;
use sha2::{Digest as _, Sha256};

use super::{ACCESS_KEY, REGION, SECRET_KEY, STS_ACCESS_KEY, STS_SECRET_KEY, STS_SESSION_TOKEN};

type Refusal = (StatusCode, &'static str);

pub fn check(head: &Parts, body: &[u8]) -> Result<(), Refusal> {
    const DENIED: Refusal = (StatusCode::FORBIDDEN, "AccessDenied");
    const WRONG: Refusal = (StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
    let header = |name: &str| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.trim().to_owned())
    };
    let authorization = header("authorization").ok_or(DENIED)?;
    let rest = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(DENIED)?;
    let field = |name: &str| {
        rest.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).ok_or(DENIED)
    };
    let (credential, signed, signature) =
        (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let scope: Vec<&str> = credential.splitn(2, '/').collect();
    let [key, scope] = scope[..] else { return Err(DENIED) };
    let parts: Vec<&str> = scope.split('/').collect();
    let [date, region, service, "aws4_request"] = parts[..] else { return Err(DENIED) };
    if region != REGION {
        return Err((StatusCode::BAD_REQUEST, "AuthorizationHeaderMalformed"));
    }
    let secret = match (key, header("x-amz-security-token").as_deref()) {
        (ACCESS_KEY, _) => SECRET_KEY,
        (STS_ACCESS_KEY, Some(STS_SESSION_TOKEN)) => STS_SECRET_KEY,
        _ => return Err((StatusCode::FORBIDDEN, "InvalidAccessKeyId")),
    };
    let hash = header("x-amz-content-sha256").ok_or(DENIED)?;
    if hash != "UNSIGNED-PAYLOAD" && hash != hex_sha256(body) {
        return Err((StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch"));
    }
    // Nobody on the way may add what changes the meaning of a request.
    let names: Vec<&str> = signed.split(';').collect();
    let unsigned = |name: &str| (name.starts_with("x-amz-") || name == "host") && !names.contains(&name);
    if head.headers.keys().any(|name| unsigned(name.as_str())) {
        return Err(WRONG);
    }
    let mut pairs = query_pairs(head.uri.query().unwrap_or_default());
    pairs.sort();
    let query: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false)))
        .collect();
    let mut headers = String::new();
    for name in &names {
        headers.push_str(&format!("{name}:{}\n", header(name).ok_or(WRONG)?));
    }
    let path = encode(&decode(head.uri.path()), true);
    let request = format!("{}\n{path}\n{}\n{headers}\n{signed}\n{hash}", head.method, query.join("&"));
    let time = header("x-amz-date").ok_or(DENIED)?;
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex_sha256(request.as_bytes()));
    let mut key = format!("AWS4{secret}").into_bytes();
    for step in [date, region, service, "aws4_request", &to_sign] {
        key = hmac(&key, step.as_bytes());
    }
    if hex(&key) == signature { Ok(()) } else { Err(WRONG) }
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

pub fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (first, pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encode(text: &str, is_path: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte as char),
            b'/' if is_path => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
