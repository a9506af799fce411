//! Holds `docs/reference/limits.md` to the schema, which is generated from types and held to the decoders.
//! `UPDATE_REFERENCE=1 cargo test` writes it anew.

mod common;

use std::{fmt::Write as _, path::Path};

use common::{bundle, regions};
use portolan_config::Snapshot;
use serde_json::Value;

/// Keys of one mapping as rows of a table.
fn keys(schema: &Value, definition: &str) -> String {
    let mut table = "| key | meaning |\n|---|---|\n".to_owned();
    let definition = &schema["$defs"][definition];
    let required: Vec<&str> =
        definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, property) in definition["properties"].as_object().expect("properties") {
        let meaning = property["description"].as_str().expect("every key is described").replace('\n', " ");
        let must = if required.contains(&key.as_str()) { " Required." } else { "" };
        let _ = writeln!(table, "| `{key}` | {meaning}{must} |");
    }
    table
}

#[test]
fn the_reference_of_limits_is_what_the_schema_says() {
    let schema = portolan_config::json_schema();
    let table = |definition| keys(&schema, definition);
    let expected = format!(
        "# Limits

Generated from the types of the configuration; do not edit. `portolan plan` prints what a limit guarantees.

A limit bounds requests over all regions together. Routes name the limits that they charge, all or none of them.

```yaml
limits:
  per-user: {{ key: user, rate: 600/min }}
  per-key: {{ key: api_key, rate: 600/min, algorithm: token_bucket, burst: 50 }}
  exports: {{ key: [tenant, route], concurrency: 10 }}
  tenants:
    key: tenant
    quota: 100000/month
    time_zone: Europe/Berlin
    plans: {{ claim: plan, quotas: {{ free: 1000, pro: 1000000 }} }}
    overrides: {{ acme: 5000000 }}
  total: {{ key: global, rate: 5000/s, shares: {{ ap-southeast: 10, eu-west: 30, us-east: 60 }} }}
```

## A limit

{}
## A part of `key`

Exactly one of these.

{}
## `cost` from a header

{}
## `plans`

`claim` or `header`, and the amounts.

{}
## A lender

{}",
        table("Limit"),
        table("KeyPart"),
        table("CostFromHeader"),
        table("Plans"),
        table("Lender"),
    );
    let sample = expected.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a sample");
    let faults = Snapshot::parse(&bundle(&format!("version: 1\n{sample}")), &regions()).err();
    assert_eq!(faults.map(|faults| faults.to_string()), None, "the sample is good");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/limits.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &expected).expect("is writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "docs/reference/limits.md is out of date: run with UPDATE_REFERENCE=1");
}
