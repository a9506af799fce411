//! `auth`: who may issue tokens, and the keys that verify them. Checks that the key set can be read, not what it holds:
//! an algorithm that this version does not know must not make a document invalid.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan_model::Name;

use super::Scope;
use crate::{
    JwtAuth,
    decode::{self, Fields, Shape, duration, entry_name, string},
    fault::Report,
    tree::{Entry, Node},
};

/// The keys of a way to authenticate.
pub(crate) const AUTH: Shape = Shape { what: "a way to authenticate", keys: &["jwt"] };

/// The keys of token verification.
pub(crate) const JWT: Shape =
    Shape { what: "token verification", keys: &["issuer", "jwks_file", "audience", "user_claim", "leeway"] };

pub(super) fn decode(entries: &[Entry], scope: &Scope<'_>, report: &mut Report<'_>) -> BTreeMap<Name, Arc<JwtAuth>> {
    let auths = entries.iter().filter_map(|entry| auth(entry, scope, report));
    auths.map(|auth| (auth.name.clone(), Arc::new(auth))).collect()
}

fn auth(entry: &Entry, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<JwtAuth> {
    let name = entry_name(entry, report);
    let fields = Fields::open(&entry.node, &AUTH, report)?;
    let example = "{ issuer: https://issuer.example, jwks_file: jwks.json, audience: [api] }";
    let fields = Fields::open(fields.require("jwt", example, report)?, &JWT, report)?;
    let issuer = fields.require("issuer", "https://issuer.example", report).and_then(|node| string(node, report));
    let jwks = fields.require("jwks_file", "jwks.json", report).and_then(|node| key_set(node, scope, report));
    let audience = fields.require("audience", "[api]", report).and_then(|node| audience(node, report));
    let user_claim = fields.optional("user_claim", "sub".to_owned(), report, string);
    let leeway = fields.optional("leeway", Duration::from_secs(60), report, |node, report| {
        duration(node, Duration::ZERO..=Duration::from_secs(600), report)
    });
    Some(JwtAuth { name: name?, issuer: issuer?, audience: audience?, jwks: jwks?, user_claim, leeway })
}

fn audience(node: &Node, report: &mut Report<'_>) -> Option<Vec<String>> {
    if decode::is_empty_list(node) {
        let remedy = "name what tokens must be made for, e.g. [api]".to_owned();
        report.fault(node.at, "`audience` is empty, so tokens for anything would do", remedy);
        return None;
    }
    decode::list(node, MAX_AUDIENCES, report, string)
}

fn key_set(node: &Node, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let file = string(node, report)?;
    let Some(text) = scope.attachments.get(&file) else {
        let message = format!("{} cannot be read", node.quoted());
        report.fault(node.at, message, "name a file by its path from the document".to_owned());
        return None;
    };
    let why = if text.len() > MAX_JWKS_BYTES {
        format!("has {} bytes, at most {MAX_JWKS_BYTES} are read", text.len())
    } else {
        match serde_json::from_str::<serde_json::Value>(text) {
            Err(error) => format!("is not JSON: {error}"),
            Ok(value) => match value.get("keys").and_then(|keys| keys.as_array()) {
                None => "has no `keys` list".to_owned(),
                Some(keys) if keys.is_empty() => "has an empty `keys` list".to_owned(),
                Some(keys) if keys.iter().any(|key| key.get("kty").is_none()) => "has a key without `kty`".to_owned(),
                Some(_) => return Some(text.as_str().into()),
            },
        }
    };
    let remedy = "put a JSON Web Key Set there (RFC 7517 section 5)".to_owned();
    report.fault(node.at, format!("{} {why}", node.quoted()), remedy);
    None
}

/// Audiences of one issuer.
const MAX_AUDIENCES: usize = 32;

/// A key set of a few dozen keys.
const MAX_JWKS_BYTES: usize = 128 << 10;
