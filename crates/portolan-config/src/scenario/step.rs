//! What happens in a scenario, and when.

use std::time::Duration;

use crate::OperatorVerb;

use super::{Condition, ScenarioFault, render};

/// Something that happens once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub start: Start,
    /// What.
    pub action: Action,
    /// How long it lasts; `None` means to the end. Never set for what is over at once.
    pub duration: Option<Duration>,
}

impl Step {
    /// The time from the start at which it begins, or the earliest at which it may.
    pub fn earliest(&self) -> Duration {
        match &self.start {
            Start::At(at) => *at,
            Start::When { not_before, .. } => *not_before,
        }
    }

    /// The step as a scenario file has it, without braces and without its time.
    pub fn words(&self) -> String {
        render::action(self)
    }
}

/// What a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A time from the start.
    At(Duration),
    /// The first moment at which a condition holds.
    When {
        /// The condition.
        condition: Condition,
        /// Before this time from the start it is not looked at.
        not_before: Duration,
    },
}

/// What happens in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Something breaks.
    Fault(ScenarioFault),
    /// An operator gives an order.
    Order(Order),
}

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// As on the command line.
    pub verb: OperatorVerb,
    /// Whether it may be refused, or find nobody who takes it; else a run in which that happens fails.
    pub may_fail: bool,
}
