//! Lenders outside the regions: which limit borrows of whom, and what follows when one cannot be counted on. Never talks
//! to one; the driver does, in the background.

use portolan_config::LimitId;
use portolan_limits::{LenderState, LoanReply, LoanRequest};
use portolan_model::{Name, Now};

use super::Node;

impl Node {
    /// The next chunk to ask a lender for, with the lender's name. Answer each with [`Node::handle_loan`], also one that
    /// was not asked for.
    pub fn poll_loan(&mut self) -> Option<(Name, LoanRequest)> {
        while let Some(request) = self.limits.poll_loan() {
            if let Some(lender) = self.lender_of(request.limit) {
                return Some((lender, request));
            }
        }
        None
    }

    /// What came of a request for a chunk.
    pub fn handle_loan(&mut self, reply: LoanReply, now: Now) {
        self.limits.handle_loan(reply, now);
        self.settle(now);
    }

    /// Whether a lender can be counted on; at first each can.
    pub fn handle_lender(&mut self, lender: &Name, reachable: bool, now: Now) {
        let borrows = |limit: &portolan_config::Limit| limit.lender.as_ref() == Some(lender);
        let budgets = self.intent.limits.budgets(&self.intent.snapshot);
        let limits: Vec<LimitId> =
            budgets.filter(|budget| borrows(budget.limit)).map(|budget| budget.binding.id).collect();
        for limit in limits {
            self.limits.handle_lender(LenderState { limit, reachable }, now);
        }
        self.settle(now);
    }

    fn lender_of(&self, limit: LimitId) -> Option<Name> {
        self.view.budget(limit).and_then(|(binding, _)| binding.limit.lender.clone())
    }
}
