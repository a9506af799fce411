//! What operators order in a run.
//!
//! Orders take the way that the command line takes: to a node that is up and, where the cluster has no leader yet, to
//! the next one a second later. An order that may have been applied is never given twice.

use portolan_config::{Applied, Bundle, Change, Command, OperatorVerb};
use portolan_model::{RegionId, Timestamp};
use portolan_raft::ProposeError;
use tokio::time::Duration;

use crate::{
    outcome::Invariant,
    wire::{Errand, Life},
    world::{Plan, World},
};

/// Who the operators of a simulation are in the history.
const AUTHOR: &str = "operator";

/// How often an order is given before the operator goes home, and the pause between.
const MAX_TRIES: u32 = 20;
const RETRY: Duration = Duration::from_secs(1);

/// Orders by number.
#[derive(Default)]
pub struct Orders(Vec<Order>);

struct Order {
    what: What,
    may_fail: bool,
    tries: u32,
    end: End,
}

/// What became of an order.
enum End {
    /// Nobody has taken it yet.
    Open,
    /// It was carried out, or may have been: the operator did not hear.
    Taken,
    Refused(String),
}

/// What is ordered.
#[derive(Clone)]
enum What {
    /// As on the command line.
    Verb(OperatorVerb),
    /// The document in force with a fault in it.
    BadConfig,
}

impl Orders {
    /// Orders that were refused or that nobody took, of those that may not fail, and what became of each.
    pub fn failed(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().filter(|order| !order.may_fail).filter_map(|order| {
            let why = match &order.end {
                End::Open => "no node took it",
                End::Refused(why) => why,
                End::Taken => return None,
            };
            Some((words(&order.what), why))
        })
    }
}

impl World<'_> {
    /// An operator gives an order.
    pub fn order(&mut self, order: &portolan_config::Order) {
        self.order_what(What::Verb(order.verb.clone()), order.may_fail);
    }

    /// Puts the scenario's document in force before the scenario begins.
    pub fn order_first_document(&mut self) {
        self.order_what(What::Verb(OperatorVerb::Apply { file: String::new() }), false);
    }

    /// An operator pushes a document that must not be accepted.
    pub fn order_bad_config(&mut self) {
        self.order_what(What::BadConfig, true);
    }

    fn order_what(&mut self, what: What, may_fail: bool) {
        self.faults.orders.0.push(Order { what, may_fail, tries: 0, end: End::Open });
        self.give_order(self.faults.orders.0.len() - 1);
    }

    /// Gives an order to the next node that is up.
    pub fn give_order(&mut self, number: usize) {
        let tries = self.faults.orders.0[number].tries as usize;
        let serves = |host: &usize| self.hosts[*host].speaks();
        let up: Vec<usize> = (0..self.hosts.len()).filter(serves).collect();
        let Some(&host) = up.get(tries % up.len().max(1)) else { return self.order_again(number) };
        let life = Life { host, number: self.hosts[host].lives };
        let what = self.faults.orders.0[number].what.clone();
        if let What::Verb(OperatorVerb::Restore { region }) = &what {
            // Nodes may act on it before the operator hears that they do.
            self.note_drain(region, false);
        }
        let command = self.command(host, &what);
        let Some(raft) = self.process(life).map(|process| process.raft.clone()) else { return };
        let errands = self.errands.clone();
        tokio::spawn(async move {
            let outcome = raft.propose(command).await;
            // Nobody listens once the run is over.
            let _ = errands.send(Errand::Ordered { order: number, outcome });
        });
    }

    fn command(&self, host: usize, what: &What) -> Command {
        let at = self.hosts[host].clock.at(self.now).wall;
        let author = AUTHOR.to_owned();
        match what {
            What::BadConfig => {
                let bundle = with_a_fault(self.document(""));
                Change::Apply { bundle, author, expected: None }.at(at)
            }
            What::Verb(OperatorVerb::Apply { file }) => {
                Change::Apply { bundle: self.document(file), author, expected: None }.at(at)
            }
            What::Verb(OperatorVerb::Rollback { to }) => Change::Rollback { to: *to, author }.at(at),
            What::Verb(OperatorVerb::Drain { region, reason }) => {
                let serving = self.serving(host);
                Change::Drain { region: region.clone(), reason: reason.clone(), author, serving }.at(at)
            }
            What::Verb(OperatorVerb::Restore { region }) => Change::Restore { region: region.clone(), author }.at(at),
            What::Verb(OperatorVerb::Fence { region, reason }) => {
                Change::FenceLimits { region: region.clone(), reason: reason.clone(), author }.at(at)
            }
            What::Verb(OperatorVerb::Unfence { region }) => {
                Change::UnfenceLimits { region: region.clone(), author }.at(at)
            }
        }
    }

    /// The regions that serve, as the node that takes the order sees it.
    fn serving(&self, host: usize) -> Vec<RegionId> {
        let Some(process) = &self.hosts[host].process else { return Vec::new() };
        let view = process.node.view();
        let serves = |id: &&RegionId| view.states.get(id) == portolan_geodns::RegionState::Serving;
        self.sources.regions.ids().iter().filter(serves).cloned().collect()
    }

    /// An order has an outcome.
    pub fn order_done(&mut self, number: usize, outcome: Result<Applied, ProposeError>) {
        let what = self.faults.orders.0[number].what.clone();
        let words = words(&what);
        match outcome {
            Ok(Applied::Accepted { revision }) => {
                if matches!(what, What::BadConfig) {
                    let detail = format!("a document with a fault became revision {revision}");
                    self.oracle.violate(self.since_zero(), Invariant::OneDocumentPerRevision, detail);
                }
                self.note(format_args!("{words}: revision {revision}"));
                self.note_acknowledged(revision);
                self.faults.orders.0[number].end = End::Taken;
            }
            Ok(applied) => {
                if let (Applied::Drained, What::Verb(OperatorVerb::Drain { region, .. })) = (&applied, &what) {
                    self.note_drain(region, true);
                }
                match &applied {
                    // It quotes the document: the kind of answer is enough here.
                    Applied::Refused(_) if matches!(what, What::BadConfig) => {
                        self.note(format_args!("{words}: refused"))
                    }
                    applied => self.note(format_args!("{words}: {applied:?}")),
                }
                self.faults.orders.0[number].end = match applied {
                    Applied::Refused(why) if !matches!(what, What::BadConfig) => {
                        self.figures.unacknowledged_orders += 1;
                        End::Refused(why.to_string())
                    }
                    _ => End::Taken,
                };
            }
            Err(ProposeError::Timeout { may_have_been_applied: true }) => {
                self.note(format_args!("{words}: no answer, it may have been applied"));
                self.figures.unacknowledged_orders += 1;
                self.faults.orders.0[number].end = End::Taken;
            }
            Err(error) => {
                self.note(format_args!("{words}: {error}"));
                self.order_again(number);
            }
        }
    }

    fn order_again(&mut self, number: usize) {
        let order = &mut self.faults.orders.0[number];
        order.tries += 1;
        if order.tries < MAX_TRIES {
            let now: Timestamp = self.now;
            self.agenda.plan(now + RETRY, Plan::Order(number));
        } else {
            self.figures.unacknowledged_orders += 1;
        }
    }
}

/// The document with a key that none has.
fn with_a_fault(mut bundle: Bundle) -> Bundle {
    bundle.document.text += "\nno-such-key: true\n";
    bundle
}

fn words(what: &What) -> String {
    match what {
        What::BadConfig => "apply of a document with a fault".to_owned(),
        What::Verb(OperatorVerb::Apply { file }) if file.is_empty() => "first apply".to_owned(),
        What::Verb(OperatorVerb::Drain { region, .. }) => format!("drain {region}"),
        What::Verb(OperatorVerb::Fence { region, .. }) => format!("limits fence {region}"),
        What::Verb(verb) => verb.to_string(),
    }
}
