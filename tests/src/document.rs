//! Gateway documents for tests: the shipped demo services, with one open route per limit at `/LIMIT`.

use std::fmt::Write as _;

/// A document in the making.
#[derive(Clone, Debug, Default)]
pub struct Document {
    lenders: Vec<(String, String)>,
    limits: Vec<(String, String)>,
    comment: String,
}

impl Document {
    /// Adds a limit, `name` and its YAML value, and a route at `/name/**` that it alone governs.
    pub fn limit(mut self, name: &str, value: &str) -> Self {
        self.limits.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a lender at a Redis URL.
    pub fn lender(mut self, name: &str, url: &str) -> Self {
        self.lenders.push((name.to_owned(), url.to_owned()));
        self
    }

    /// Puts a comment at the top: another document with the same meaning, so another revision.
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = text.to_owned();
        self
    }

    /// The YAML, for the shipped network.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "# {}\nversion: 1\nlistener: {{ client_limit: 100000/s }}\nservices:\n  echo:\n    endpoints:\n",
            self.comment
        );
        for (k, region) in ["ap-southeast", "eu-west", "us-east"].iter().enumerate() {
            let k = k + 1;
            let _ = writeln!(text, "      {region}: [http://127.10.{k}.1:9101, http://127.10.{k}.1:9102]");
        }
        text.push_str("    health: { path: /healthz, interval: 1s, timeout: 500ms, fall: 2, rise: 2 }\n");
        if !self.lenders.is_empty() {
            text.push_str("lenders:\n");
        }
        for (name, url) in &self.lenders {
            let _ = writeln!(text, "  {name}: {{ redis: '{url}' }}");
        }
        if !self.limits.is_empty() {
            text.push_str("limits:\n");
        }
        for (name, value) in &self.limits {
            let _ = writeln!(text, "  {name}: {{ {value}, expose_slot: true }}");
        }
        text.push_str("routes:\n");
        text.push_str("  free:\n    match: { host: api.example.test, path: /free/** }\n    service: echo\n");
        for (name, _) in &self.limits {
            let _ = writeln!(
                text,
                "  {name}:\n    match: {{ host: api.example.test, path: /{name}/** }}\n    limits: [{name}]\n    service: echo"
            );
        }
        text.push_str("dns:\n  example.test:\n    api: { regions: all, ttl: 5s }\n");
        text
    }
}
