//! What `up` prints once the fleet is ready: one table, and commands to copy that work from where `up` was started.

use std::{fmt::Write as _, path::Path};

use portolan_server::api::StatusAnswer;

use super::plan::{Plan, SHIPPED_DIR};
use crate::output::Table;

/// The host and the paths that requests are suggested to, by the names of their routes in the sample configuration.
pub const SAMPLE_HOST: &str = "api.example.test";
pub const SAMPLE_PATHS: [(&str, &str); 2] = [("public", "/public/hello"), ("orders", "/orders/1")];

/// Command and what to expect of it.
pub struct Suggestion {
    /// Whether it is a request that the sample configuration alone answers as the title says.
    pub of_sample: bool,
    /// One line that says what it shows.
    pub title: &'static str,
    /// For a POSIX shell.
    pub command: String,
}

/// The table of nodes; `statuses` are in the order of the plan.
pub fn table(plan: &Plan, statuses: &[StatusAnswer]) -> String {
    let mut table = Table::new(["node", "region", "HTTPS and HTTP/3", "DNS", "admin", "Raft"]);
    for (node, status) in plan.nodes.iter().zip(statuses) {
        table.row([
            node.node.to_string(),
            node.region.to_string(),
            node.https().to_string(),
            node.dns().to_string(),
            node.admin().to_string(),
            status.raft.role.clone(),
        ]);
    }
    table.to_string()
}

/// The commands, in the order in which a new user would try them. Draining comes last but one: it changes the fleet.
pub fn suggestions(plan: &Plan, program: &str) -> Vec<Suggestion> {
    let (first, last) = (&plan.nodes[0], &plan.nodes[plan.nodes.len() - 1]);
    let dir = quoted(&plan.dir);
    let program = if plan.dir == Path::new(SHIPPED_DIR) {
        quoted(Path::new(program))
    } else {
        format!("{} --dir {dir}", quoted(Path::new(program)))
    };
    let port = last.https().port();
    let url = format!("https://api.example.test:{port}");
    let at = |address: &dyn std::fmt::Display| {
        format!("curl -sS --cacert {dir}/ca.pem --resolve api.example.test:{port}:{address}")
    };
    let near = at(&last.address);
    let token = |user: &str| format!("$({program} token --user {user} --scope orders)");
    let bearer = |token: &str| format!("-H \"Authorization: Bearer {token}\"");
    let addresses: Vec<String> = plan.nodes.iter().map(|node| node.address.to_string()).collect();
    let (alice, bob) = (token("alice"), token("bob"));
    let suggest = |title, command| Suggestion { of_sample: false, title, command };
    let sample = |title, command| Suggestion { of_sample: true, title, command };
    vec![
        sample("HTTP/2, no token needed", format!("{near} -i {url}/public/hello")),
        sample(
            "HTTP/3",
            format!("{program} probe --http3 --resolve api.example.test:{port}:{} {url}/public/hello", last.address),
        ),
        sample("401: a token is needed", format!("{near} -i {url}/orders/1")),
        sample("200: with a token", format!("{near} -i {} {url}/orders/1", bearer(&alice))),
        sample(
            "429: 6 per minute and user, held over all regions together",
            format!(
                "TOKEN={bob}; for i in 1 2 3; do for address in {}; do {} {} -o /dev/null -w '%{{http_code}}\\n' \
                 {url}/orders/1; done; done",
                addresses.join(" "),
                at(&"$address"),
                bearer("$TOKEN"),
            ),
        ),
        sample(
            "DNS for a client in Berlin",
            format!("dig @{} -p {} api.example.test A +subnet=198.51.100.0/24", first.address, first.dns().port()),
        ),
        suggest("bring an edited configuration into force", format!("{program} apply {}", quoted(&plan.document))),
        sample(
            "why a request is treated as it is",
            format!("{program} explain --host api.example.test --path /orders/1 --token \"{alice}\""),
        ),
        suggest(
            "send the clients of a region elsewhere; `restore` ends it",
            format!("{program} drain {} --reason maintenance", first.region),
        ),
        suggest(
            "rehearse the loss of a region's network in virtual time",
            format!("{program} simulate simulations/region-isolated.yaml --seeds 5"),
        ),
    ]
}

/// Table and commands as `up` prints them; requests only if the sample configuration is in force.
pub fn render(plan: &Plan, statuses: &[StatusAnswer], program: &str, sample: bool) -> String {
    let mut text = format!("\n{}\n", table(plan, statuses));
    for suggestion in suggestions(plan, program).into_iter().filter(|suggestion| sample || !suggestion.of_sample) {
        let _ = writeln!(text, "# {}\n{}\n", suggestion.title, suggestion.command);
    }
    text
}

/// `path` as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::RegionId;

    use super::{super::plan::SHIPPED_NETWORK, *};

    #[test]
    fn at_most_ten_commands_are_suggested_each_on_one_line() {
        let regions = ["eu-west", "us-east"].map(|name| RegionId::new(name).expect("a name"));
        let plan = Plan::new(Path::new(SHIPPED_DIR), &regions, 1, SHIPPED_NETWORK, false).expect("a plan");
        let suggestions = suggestions(&plan, "target/release/portolan");
        assert!(suggestions.len() <= 10);
        for suggestion in &suggestions {
            assert!(!suggestion.command.contains('\n') && !suggestion.title.contains('\n'), "{}", suggestion.title);
        }
        assert!(suggestions[1].command.starts_with("target/release/portolan probe --http3"));
    }

    #[test]
    fn a_path_with_a_blank_is_one_word() {
        assert_eq!(quoted(Path::new("a b/it's")), r"'a b/it'\''s'");
        assert_eq!(quoted(Path::new("./target/debug/portolan")), "./target/debug/portolan");
    }
}
