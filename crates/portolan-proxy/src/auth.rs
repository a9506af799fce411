//! Decides who asks, from a bearer token (RFC 6750, RFC 7519): signature, issuer, audience, times, scopes.
//!
//! Never fetches a key and never reads a clock. Each key serves the one algorithm its type implies, so a token cannot
//! choose how it is verified (RFC 8725 §3.1): RSA verifies RS256, P-256 verifies ES256, Ed25519 verifies EdDSA.

use std::{fmt, sync::Arc};

use http::{HeaderMap, header};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use portolan_config::{JwtAuth, Route};
use portolan_model::WallTime;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longest token read, in bytes.
const MAX_TOKEN: usize = 8 << 10;

/// Longest user name forwarded, in bytes.
const MAX_USER: usize = 256;

/// Types a token may declare: none, plain JWT, or an access token (RFC 9068 §4).
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Value of the issuer's user claim: visible ASCII, so that it fits a header field.
    pub user: Arc<str>,
    /// All claims of the token, verified.
    pub claims: Map<String, Value>,
}

/// Why a request is not authenticated or not authorised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no bearer token.
    MissingToken,
    /// More than one `Authorization` field, or one that is malformed.
    Malformed,
    /// The token does not prove an identity; one reason for the client, whichever check failed.
    InvalidToken,
    /// The token has expired: said apart, so that clients know to renew it.
    Expired,
    /// The token lacks a scope of the route.
    InsufficientScope,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingToken => "A bearer token is needed.",
            Self::Malformed => "The Authorization field is malformed.",
            Self::InvalidToken => "The token is not valid here.",
            Self::Expired => "The token has expired.",
            Self::InsufficientScope => "The token lacks a scope that this route needs.",
        })
    }
}

/// Verifies the tokens of one issuer.
pub struct Verifier {
    auth: Arc<JwtAuth>,
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier {
    /// Parses the keys once. Keys of other types or uses are left out: a key set may serve several purposes.
    pub fn new(auth: Arc<JwtAuth>) -> Self {
        // Key by key: one that is not understood does not take the others away (RFC 7517 §5).
        let set: Value = serde_json::from_str(&auth.jwks).unwrap_or_default();
        let keys = set["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        let keys = keys.iter().filter_map(|key| Key::new(&Jwk::deserialize(key).ok()?)).collect();
        Self { auth, keys }
    }

    /// Whether this verifier was made from `auth`.
    pub fn is_for(&self, auth: &Arc<JwtAuth>) -> bool {
        Arc::ptr_eq(&self.auth, auth)
    }

    /// Authenticates and authorises a request for `route`. The costly step is one signature check, at most.
    pub fn verify(&self, headers: &HeaderMap, route: &Route, now: WallTime) -> Result<Identity, Denied> {
        let token = bearer_token(headers)?;
        let header = decode_header(token).map_err(|_| Denied::InvalidToken)?;
        let key = self.key_for(&header).ok_or(Denied::InvalidToken)?;
        let claims: Map<String, Value> =
            decode(token, &key.key, &signature_only(key.algorithm)).map_err(|_| Denied::InvalidToken)?.claims;
        self.check_claims(&claims, now)?;
        if !route.scopes.iter().all(|scope| has_scope(&claims, scope)) {
            return Err(Denied::InsufficientScope);
        }
        let user = claims.get(&self.auth.user_claim).and_then(Value::as_str).ok_or(Denied::InvalidToken)?;
        let printable = !user.is_empty() && user.len() <= MAX_USER && user.bytes().all(|b| b.is_ascii_graphic());
        let user = if printable { user.into() } else { return Err(Denied::InvalidToken) };
        Ok(Identity { user, claims })
    }

    /// The key a token names; a token that names none may use a key only if it is the one of its algorithm.
    fn key_for(&self, header: &Header) -> Option<&Key> {
        let typed = header.typ.as_ref().is_none_or(|typ| TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known)));
        // `crit` names extensions that must be understood; none is (RFC 7515 §4.1.11).
        if !typed || header.crit.is_some() {
            return None;
        }
        let mut usable = self.keys.iter().filter(|key| key.algorithm == header.alg);
        match &header.kid {
            Some(id) => usable.find(|key| key.id.as_ref() == Some(id)),
            None => usable.next().filter(|_| usable.next().is_none()),
        }
    }

    fn check_claims(&self, claims: &Map<String, Value>, now: WallTime) -> Result<(), Denied> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.auth.issuer) {
            return Err(Denied::InvalidToken);
        }
        let accepted = |value: &Value| value.as_str().is_some_and(|text| self.auth.audience.iter().any(|a| a == text));
        let for_us = match claims.get("aud") {
            Some(Value::Array(values)) => values.iter().any(accepted),
            Some(value) => accepted(value),
            None => false,
        };
        if !for_us {
            return Err(Denied::InvalidToken);
        }
        let (now, leeway) = (now.as_unix_secs() as f64, self.auth.leeway.as_secs_f64());
        // Dates may have a fraction (RFC 7519 §2). A token without an end is not taken.
        let expiry = claims.get("exp").and_then(Value::as_f64).ok_or(Denied::InvalidToken)?;
        let start = claims.get("nbf").map(|value| value.as_f64().ok_or(Denied::InvalidToken)).transpose()?;
        if start.is_some_and(|start| start > now + leeway) {
            return Err(Denied::InvalidToken);
        }
        if expiry + leeway > now { Ok(()) } else { Err(Denied::Expired) }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("auth", &self.auth.name).field("keys", &self.keys.len()).finish()
    }
}

impl Key {
    fn new(jwk: &Jwk) -> Option<Self> {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => return None,
        };
        let fits = jwk.common.key_algorithm.is_none_or(|declared| declared == KeyAlgorithm::from(algorithm));
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
        if !signs || !fits {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: jwk.common.key_id.clone(), algorithm, key })
    }
}

/// The library checks the signature alone: claims are checked here, against the caller's clock.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next().ok_or(Denied::MissingToken)?;
    if fields.next().is_some() {
        return Err(Denied::Malformed);
    }
    let text = field.to_str().map_err(|_| Denied::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(Denied::MissingToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::MissingToken);
    }
    let token = token.trim_matches(' ');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(allowed) {
        return Err(Denied::InvalidToken);
    }
    Ok(token)
}

/// `scope` is a list in one string (RFC 8693 §4.2); `scp` is what other issuers write, a list or a string.
fn has_scope(claims: &Map<String, Value>, wanted: &str) -> bool {
    ["scope", "scp"].iter().filter_map(|claim| claims.get(*claim)).any(|value| match value {
        Value::String(text) => text.split(' ').any(|scope| scope == wanted),
        Value::Array(values) => values.iter().any(|value| value.as_str() == Some(wanted)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, encode};
    use portolan_config::{HostMatch, PathMatch};
    use portolan_model::Name;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct Issuer {
        keys: Vec<(&'static str, Algorithm, EncodingKey)>,
        ed_public: Vec<u8>,
    }

    impl Issuer {
        fn new() -> Self {
            let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("generates");
            let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("generates");
            let ed = KeyPair::generate_for(&PKCS_ED25519).expect("generates");
            let pem = |key: &KeyPair| key.serialize_pem().into_bytes();
            Self {
                ed_public: ed.public_key_raw().to_vec(),
                keys: vec![
                    ("rsa", Algorithm::RS256, EncodingKey::from_rsa_pem(&pem(&rsa)).expect("an RSA key")),
                    ("ec", Algorithm::ES256, EncodingKey::from_ec_pem(&pem(&ec)).expect("a P-256 key")),
                    ("ed", Algorithm::EdDSA, EncodingKey::from_ed_pem(&pem(&ed)).expect("an Ed25519 key")),
                ],
            }
        }

        fn verifier(&self) -> Verifier {
            let keys = self.keys.iter().map(|(id, algorithm, key)| {
                let mut jwk = match algorithm {
                    Algorithm::EdDSA => {
                        Jwk::from_decoding_key(&DecodingKey::from_ed_der(&self.ed_public), Some(*algorithm))
                    }
                    _ => Jwk::from_encoding_key(key, *algorithm),
                }
                .expect("is public");
                jwk.common.key_id = Some((*id).to_owned());
                jwk
            });
            let unusable = json!({ "kty": "future", "kid": "x" });
            let mut keys: Vec<Value> = keys.map(|jwk| serde_json::to_value(jwk).expect("is JSON")).collect();
            keys.push(unusable);
            Verifier::new(Arc::new(JwtAuth {
                name: Name::new("customers").expect("a name"),
                issuer: "https://issuer.test".into(),
                audience: vec!["api".into(), "web".into()],
                jwks: json!({ "keys": keys }).to_string().into(),
                user_claim: "sub".into(),
                leeway: std::time::Duration::from_secs(60),
            }))
        }

        fn token(&self, key: usize, change: impl FnOnce(&mut Header, &mut Value)) -> String {
            let (id, algorithm, key) = &self.keys[key];
            let mut header = Header::new(*algorithm);
            header.kid = Some((*id).to_owned());
            let mut claims = json!({ "iss": "https://issuer.test", "aud": "api", "sub": "ann", "exp": NOW + 60 });
            change(&mut header, &mut claims);
            encode(&header, &claims, key).expect("signs")
        }
    }

    fn route(scopes: &[&str]) -> Route {
        let name = |text| Name::new(text).expect("a name");
        Route {
            name: name("orders"),
            host: HostMatch::Any,
            path: PathMatch::Prefix("/".into()),
            methods: Vec::new(),
            auth: Some(name("customers")),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            limits: Vec::new(),
            service: name("orders"),
            timeout: std::time::Duration::from_secs(1),
            max_body: None,
        }
    }

    fn check(verifier: &Verifier, field: &str, scopes: &[&str], expected: Result<&str, Denied>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, field.parse().expect("a value"));
        let verdict = verifier.verify(&headers, &route(scopes), WallTime::from_unix_millis(NOW * 1000));
        assert_eq!(verdict.as_ref().map(|identity| &*identity.user).map_err(|denied| *denied), expected, "{field}");
    }

    #[test]
    fn tokens_of_each_algorithm_prove_their_user() {
        let issuer = Issuer::new();
        let verifier = issuer.verifier();
        for key in 0..3 {
            check(&verifier, &format!("Bearer {}", issuer.token(key, |_, _| {})), &[], Ok("ann"));
            check(&verifier, &format!("bearer {}", issuer.token(key, |header, _| header.kid = None)), &[], Ok("ann"));
        }
    }

    #[test]
    fn a_token_cannot_choose_how_it_is_verified() {
        let (issuer, stranger) = (Issuer::new(), Issuer::new());
        let verifier = issuer.verifier();
        let denied = Err(Denied::InvalidToken);
        check(&verifier, &format!("Bearer {}", stranger.token(1, |_, _| {})), &[], denied);
        // Signed by one key, claimed for another.
        let crossed = issuer.token(1, |header, _| header.kid = Some("ed".into()));
        check(&verifier, &format!("Bearer {crossed}"), &[], denied);
        // HMAC with the public key set as the secret.
        let secret = EncodingKey::from_secret(verifier.auth.jwks.as_bytes());
        let claims = json!({ "iss": "https://issuer.test", "aud": "api", "sub": "ann", "exp": NOW + 60 });
        let hmac = encode(&Header::new(Algorithm::HS256), &claims, &secret).expect("signs");
        check(&verifier, &format!("Bearer {hmac}"), &[], denied);
        // `alg: none` with an empty signature.
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.";
        check(&verifier, &format!("Bearer {unsigned}"), &[], denied);
        let critical = issuer.token(1, |header, _| header.crit = Some(vec!["exp".into()]));
        check(&verifier, &format!("Bearer {critical}"), &[], denied);
        let other_type = issuer.token(1, |header, _| header.typ = Some("dpop+jwt".into()));
        check(&verifier, &format!("Bearer {other_type}"), &[], denied);
    }

    #[test]
    fn claims_are_checked_against_the_given_clock() {
        let issuer = Issuer::new();
        let verifier = issuer.verifier();
        let check = |name: &str, value: Value, expected| {
            let token = issuer.token(1, |_, claims| claims[name] = value);
            check(&verifier, &format!("Bearer {token}"), &[], expected);
        };
        check("exp", json!(NOW - 59), Ok("ann"));
        check("exp", json!(NOW - 60), Err(Denied::Expired));
        check("exp", json!("soon"), Err(Denied::InvalidToken));
        check("exp", Value::Null, Err(Denied::InvalidToken));
        check("nbf", json!(NOW + 60), Ok("ann"));
        check("nbf", json!(NOW + 61), Err(Denied::InvalidToken));
        check("iss", json!("https://issuer.test/"), Err(Denied::InvalidToken));
        check("aud", json!(["x", "web"]), Ok("ann"));
        check("aud", json!("x"), Err(Denied::InvalidToken));
        check("aud", Value::Null, Err(Denied::InvalidToken));
        check("sub", json!("a\nb"), Err(Denied::InvalidToken));
        check("sub", json!(7), Err(Denied::InvalidToken));
    }

    #[test]
    fn a_route_can_ask_for_scopes() {
        let issuer = Issuer::new();
        let verifier = issuer.verifier();
        let check = |name: &str, value: Value, expected| {
            let token = issuer.token(2, |_, claims| claims[name] = value);
            check(&verifier, &format!("Bearer {token}"), &["read", "write"], expected);
        };
        check("scope", json!("read write admin"), Ok("ann"));
        check("scp", json!(["write", "read"]), Ok("ann"));
        check("scope", json!("read"), Err(Denied::InsufficientScope));
        check("scope", json!("reading write"), Err(Denied::InsufficientScope));
    }

    #[test]
    fn a_malformed_field_is_told_from_a_missing_one() {
        let verifier = Issuer::new().verifier();
        check(&verifier, "Basic YTpi", &[], Err(Denied::MissingToken));
        check(&verifier, "Bearer", &[], Err(Denied::MissingToken));
        check(&verifier, "Bearer a b", &[], Err(Denied::InvalidToken));
        check(&verifier, &format!("Bearer {}", "a".repeat(MAX_TOKEN + 1)), &[], Err(Denied::InvalidToken));
        let none = verifier.verify(&HeaderMap::new(), &route(&[]), WallTime::default());
        assert_eq!(none, Err(Denied::MissingToken));
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, "Bearer a".parse().expect("a value"));
        twice.append(header::AUTHORIZATION, "Bearer b".parse().expect("a value"));
        assert_eq!(verifier.verify(&twice, &route(&[]), WallTime::default()), Err(Denied::Malformed));
    }
}
