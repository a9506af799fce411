//! The demo token issuer: one ES256 key, its public half as a JWKS file, and tokens signed with it.
//!
//! Decides the claims of demo tokens. Never checks one: that is the gateway's work.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::KeyPair;
use serde::Serialize;

use crate::dev;

/// `kid` of the only key.
const KEY_ID: &str = "demo";

/// What a token says about its bearer.
pub struct Grant {
    /// `sub`.
    pub user: String,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// `scope`, separated by blanks.
    pub scopes: Vec<String>,
    /// How long the token is good for.
    pub validity: Duration,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    scope: String,
    iat: u64,
    exp: u64,
}

/// Where the issuer's key lies in the folder of a fleet.
pub fn key_file(dir: &Path) -> PathBuf {
    dir.join("issuer.key")
}

/// Makes the key if there is none, and writes its public half to `jwks`.
pub fn prepare(dir: &Path, jwks: &Path) -> Result<()> {
    let file = key_file(dir);
    if !file.exists() {
        dev::write_secret(&file, &generate()?)?;
    }
    dev::write(jwks, &public_half(&load(dir)?)?)
}

/// The key set of an issuer that does not exist yet, to check a document with.
pub fn stand_in() -> Result<String> {
    public_half(&EncodingKey::from_ec_pem(generate()?.as_bytes()).context("a generated key is an EC key")?)
}

fn generate() -> Result<String> {
    KeyPair::generate().map(|key| key.serialize_pem()).context("cannot generate the issuer's key")
}

fn public_half(key: &EncodingKey) -> Result<String> {
    let mut public = Jwk::from_encoding_key(key, Algorithm::ES256).context("cannot derive the public key")?;
    public.common.key_id = Some(KEY_ID.to_owned());
    let text = serde_json::to_string_pretty(&serde_json::json!({ "keys": [public] })).context("a key set is JSON")?;
    Ok(format!("{text}\n"))
}

/// Signs a token.
pub fn mint(dir: &Path, grant: &Grant) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = Claims {
        iss: &grant.issuer,
        sub: &grant.user,
        aud: &grant.audience,
        scope: grant.scopes.join(" "),
        iat: now,
        exp: now.saturating_add(grant.validity.as_secs()),
    };
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(KEY_ID.to_owned());
    jsonwebtoken::encode(&header, &claims, &load(dir)?).context("cannot sign the token")
}

fn load(dir: &Path) -> Result<EncodingKey> {
    let file = key_file(dir);
    let pem = std::fs::read(&file).with_context(|| {
        format!(
            "cannot read the demo issuer's key {}; `portolan up` makes it, or name its folder with --dir",
            file.display()
        )
    })?;
    EncodingKey::from_ec_pem(&pem).with_context(|| format!("{} is not an EC key", file.display()))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};

    use super::*;

    #[test]
    fn a_minted_token_verifies_with_the_published_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let jwks = dir.path().join("jwks.json");
        prepare(dir.path(), &jwks).expect("an issuer");
        let grant = Grant {
            user: "alice".into(),
            issuer: "https://issuer.example.test".into(),
            audience: "api".into(),
            scopes: vec!["orders".into(), "read".into()],
            validity: Duration::from_secs(60),
        };
        let token = mint(dir.path(), &grant).expect("a token");
        let text = std::fs::read_to_string(&jwks).expect("a key set");
        let set: JwkSet = serde_json::from_str(&text).expect("a key set is JSON");
        let key = DecodingKey::from_jwk(set.find(KEY_ID).expect("the key")).expect("an EC key");
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["api"]);
        let token = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).expect("a valid token");
        assert_eq!(token.claims["sub"], "alice");
        assert_eq!(token.claims["scope"], "orders read");
    }
}
