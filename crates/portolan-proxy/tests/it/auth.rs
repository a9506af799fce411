//! Authentication as a client meets it: challenges, and what the upstream learns.

use std::{collections::BTreeMap, sync::atomic::Ordering::SeqCst, time::SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use portolan_proxy::LogSink;
use rcgen::KeyPair;
use serde_json::json;

use crate::{gateway::Gateway, upstream};

const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
auth:
  customers: { jwt: { issuer: https://issuer.test, jwks_file: jwks.json, audience: [api] } }
routes:
  read: { match: { path: /read }, auth: customers, service: echo }
  write: { match: { path: /write }, auth: customers, scopes: [orders:write], service: echo }
";

fn key() -> EncodingKey {
    let pair = KeyPair::generate().expect("generates");
    EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a P-256 key")
}

fn token(key: &EncodingKey, user: &str, lifetime: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970");
    let expiry = now.as_secs() as i64 + lifetime;
    let claims = json!({ "iss": "https://issuer.test", "aud": "api", "sub": user, "exp": expiry });
    encode(&Header::new(Algorithm::ES256), &claims, key).expect("signs")
}

async fn check(gateway: &Gateway, path: &str, credentials: &str, status: &str, contains: &[&str]) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{credentials}connection: close\r\n\r\n");
    let answer = gateway.raw(request).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {credentials}\n{answer}");
    for part in contains {
        assert!(answer.contains(part), "{part:?} is missing\n{answer}");
    }
}

#[tokio::test]
async fn a_token_is_checked_before_the_upstream_and_never_reaches_it() {
    let (address, count) = upstream::echo().await;
    let (ours, stranger) = (key(), key());
    let jwk = Jwk::from_encoding_key(&ours, Algorithm::ES256).expect("is public");
    let jwks = BTreeMap::from([("jwks.json".to_owned(), json!({ "keys": [jwk] }).to_string())]);
    let gateway = Gateway::start_with(&DOCUMENT.replace("UPSTREAM", &address.to_string()), jwks, LogSink::Off);
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    check(&gateway, "/read", "", "401", &["www-authenticate: Bearer realm=\"portolan\"\r\n"]).await;
    let invalid = ["error=\"invalid_token\"", "\"step\":\"authenticate\""];
    check(&gateway, "/read", &bearer("nonsense"), "401", &invalid).await;
    check(&gateway, "/read", &bearer(&token(&stranger, "ann", 60)), "401", &invalid).await;
    check(&gateway, "/read", &bearer(&token(&ours, "ann", -3600)), "401", &["expired"]).await;
    let scope = ["error=\"insufficient_scope\"", "scope=\"orders:write\"", "\"step\":\"authorise\""];
    check(&gateway, "/write", &bearer(&token(&ours, "ann", 60)), "403", &scope).await;
    assert_eq!(count.load(SeqCst), 0, "the upstream was not touched");
    let spoofing = format!("{}x-user-id: root\r\n", bearer(&token(&ours, "ann", 60)));
    check(&gateway, "/read", &spoofing, "200", &["x-user-id: ann\n"]).await;
}

#[tokio::test]
async fn a_flood_of_bad_tokens_is_bounded_by_the_client_limit() {
    let (address, _) = upstream::echo().await;
    let jwk = Jwk::from_encoding_key(&key(), Algorithm::ES256).expect("is public");
    let jwks = BTreeMap::from([("jwks.json".to_owned(), json!({ "keys": [jwk] }).to_string())]);
    let document = DOCUMENT.replace("services:", "listener: { client_limit: 5/min }\nservices:");
    let gateway = Gateway::start_with(&document.replace("UPSTREAM", &address.to_string()), jwks, LogSink::Off);
    let one = "GET /read HTTP/1.1\r\nhost: a\r\nauthorization: Bearer a.b.c\r\n\r\n";
    let last = one.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let answer = gateway.raw(format!("{}{last}", one.repeat(9))).await;
    assert_eq!(answer.matches("HTTP/1.1 401").count(), 4, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 429").count(), 6, "{answer}");
}
