//! The JSON Schema of every kind of file, for editors. Describes and never validates: the decoders do, and a test holds
//! the keys of both against each other. Generated from the types in this folder, which exist for nothing else.

mod gateway;
mod limit;
mod node;
mod region;
mod scenario;
mod value;

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

/// The JSON Schema of a gateway document.
pub fn json_schema() -> Value {
    schema_of::<gateway::Gateway>()
}

/// The JSON Schemas of all kinds of files, by kind: `gateway`, `networks`, `node`, `region`, `rtt`, `scenario`.
pub fn json_schemas() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("gateway", schema_of::<gateway::Gateway>()),
        ("networks", schema_of::<region::Networks>()),
        ("node", schema_of::<node::NodeFile>()),
        ("region", schema_of::<region::Region>()),
        ("rtt", schema_of::<region::RoundTrips>()),
        ("scenario", schema_of::<scenario::Scenario>()),
    ])
}

fn schema_of<T: JsonSchema>() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    refuse_null(&mut schema);
    schema
}

/// An absent key may not be written as `key: null`, which is what `Option` stands for otherwise.
fn refuse_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let null = |option: &Value| option.get("type").is_some_and(|kind| kind == "null");
            if let Some(Value::Array(options)) = object.get_mut("anyOf") {
                options.retain(|option| !null(option));
                if let [only] = &options[..]
                    && let Value::Object(only) = only.clone()
                {
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            if let Some(Value::Array(kinds)) = object.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [only] = &kinds[..] {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            object.values_mut().for_each(refuse_null);
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{decode::Shape, gateway, node_decode, region_files, scenario_file};

    fn shapes() -> BTreeMap<&'static str, &'static Shape> {
        BTreeMap::from([
            ("Gateway", &gateway::GATEWAY),
            ("Listener", &gateway::LISTENER),
            ("Service", &gateway::SERVICE),
            ("HealthCheck", &gateway::HEALTH),
            ("Auth", &gateway::AUTH),
            ("Jwt", &gateway::JWT),
            ("Lender", &gateway::LENDER),
            ("Limit", &gateway::LIMIT),
            ("KeyPart", &gateway::KEY_PART),
            ("CostFromHeader", &gateway::COST),
            ("Plans", &gateway::PLANS),
            ("Route", &gateway::ROUTE),
            ("Match", &gateway::MATCH),
            ("Record", &gateway::RECORD),
            ("Region", &region_files::REGION),
            ("Place", &region_files::COORDINATES),
            ("RoundTrips", &region_files::ROUND_TRIPS),
            ("RoundTrip", &region_files::ROUND_TRIP),
            ("Networks", &region_files::NETWORKS),
            ("Network", &region_files::NETWORK),
            ("NodeFile", &node_decode::NODE),
            ("Listen", &node_decode::LISTEN),
            ("ServerCertificate", &node_decode::CERTIFICATE),
            ("Identity", &node_decode::IDENTITY),
            ("Peer", &node_decode::PEER),
            ("AccessLogFile", &node_decode::ACCESS_LOG),
            ("Scenario", &scenario_file::SCENARIO),
            ("Client", &scenario_file::client::CLIENT),
            ("Step", &scenario_file::step::STEP),
            ("Expect", &scenario_file::expect::EXPECT),
            ("LimitExpectation", &scenario_file::expect::LIMIT),
            ("Within", &scenario_file::WITHIN),
            ("ScenarioRegion", &scenario_file::regions::REGION),
        ])
    }

    /// Every mapping of a schema with fixed keys, by the name of its type.
    fn described(schema: &Value) -> BTreeMap<String, Value> {
        let title = schema["title"].as_str().expect("a root has a title").to_owned();
        let definitions = schema["$defs"].as_object().cloned().unwrap_or_default();
        let all = definitions.into_iter().chain([(title, schema.clone())]);
        all.filter(|(_, definition)| definition.get("properties").is_some()).collect()
    }

    #[test]
    fn the_schemas_know_the_keys_that_the_decoders_know() {
        let mut seen = BTreeSet::new();
        for schema in json_schemas().into_values() {
            for (name, definition) in described(&schema) {
                let shape = shapes().get(&*name).copied().unwrap_or_else(|| panic!("{name} has no decoder"));
                let properties = definition["properties"].as_object().expect("properties are an object");
                let keys: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
                assert_eq!(keys, shape.keys.iter().copied().collect(), "{name}");
                assert_eq!(definition["additionalProperties"], Value::Bool(false), "{name} takes unknown keys");
                let undescribed = properties.iter().filter(|(_, property)| property.get("description").is_none());
                assert_eq!(undescribed.map(|(key, _)| key).collect::<Vec<_>>(), [""; 0], "{name}");
                seen.insert(name);
            }
        }
        assert_eq!(seen, shapes().keys().map(ToString::to_string).collect());
    }

    #[test]
    fn the_schemas_know_the_words_that_the_decoders_know() {
        let check = |schema: &Value, name: &str, words: Vec<&str>| {
            assert_eq!(schema["$defs"][name]["enum"], Value::from(words), "{name}");
        };
        let gateway = json_schema();
        check(&gateway, "KeyWord", gateway::KEY_WORDS.to_vec());
        check(&gateway, "Algorithm", gateway::ALGORITHMS.map(|(word, _)| word).to_vec());
        check(&gateway, "Policy", gateway::POLICIES.map(|(word, _)| word).to_vec());
        check(&gateway, "ShareWord", gateway::SHARE_WORDS.to_vec());
        check(&gateway, "Budget", gateway::BUDGETS.map(|(word, _)| word).to_vec());
        check(&gateway, "RefundWord", vec![gateway::REFUND_WORD]);
        check(&gateway, "Method", gateway::METHODS.to_vec());
        let scenario = &json_schemas()["scenario"];
        check(scenario, "Fault", scenario_file::step::FAULTS.map(|(word, _)| word).to_vec());
        check(scenario, "Direction", scenario_file::fault::DIRECTIONS.map(|(word, _)| word).to_vec());
        check(scenario, "Disk", scenario_file::fault::DISKS.map(|(word, _)| word).to_vec());
        check(scenario, "LenderState", scenario_file::fault::LENDER_STATES.map(|(word, _)| word).to_vec());
    }

    #[test]
    fn no_schema_takes_null() {
        for (kind, schema) in json_schemas() {
            assert!(!schema.to_string().contains("\"null\""), "{kind}");
        }
    }
}
