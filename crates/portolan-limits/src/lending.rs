//! Who lends how much to whom, for one key in one slot. A pure function that every region computes for itself from what
//! it knows: no leader, no reply, no agreement. Whatever it answers, the bound holds, since a region lends only what it
//! takes out of its own rights first; a wrong view only moves units to the wrong place. Never lends to a region that is
//! not heard.

use smallvec::SmallVec;

/// One region as the lender sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Party {
    /// Units it will be asked for until the slot ends, with a margin.
    pub need: f64,
    /// Units it may still spend.
    pub have: f64,
    /// Its base share of the slot.
    pub base: u64,
    /// Whether it is heard and hears us, so that a loan would reach it.
    pub reachable: bool,
}

impl Party {
    /// Whether it is heard and will be asked for more than it has.
    pub fn lacks(&self) -> bool {
        self.reachable && self.have < self.need
    }
}

/// Units that the region at `me` should lend, by the position of the receiver. `turn` differs from slot to slot and from
/// key to key: where less than a unit is due from each lender, they take turns by it.
pub(crate) fn loans(parties: &[Party], me: usize, ahead: Ahead, turn: u64) -> SmallVec<[(usize, u64); 4]> {
    let mut loans = SmallVec::new();
    let targets = Targets::new(parties, ahead);
    let mine = targets.surplus(parties, me);
    let deficit: f64 = (0..parties.len()).map(|at| targets.deficit(parties, at)).sum();
    let surplus: f64 = (0..parties.len()).map(|at| targets.surplus(parties, at)).sum();
    if mine <= 0.0 || deficit <= 0.0 {
        return loans;
    }
    // What is short is shared by those who are short; what is left over, by those who have it.
    let met = (surplus / deficit).min(1.0);
    let mut left = spare(parties[me], targets.of(parties, me));
    for to in (0..parties.len()).filter(|&to| to != me) {
        let due = GIVEN * targets.deficit(parties, to) * met;
        if due <= 0.0 || left == 0 {
            continue;
        }
        let amount = part(parties, &targets, me, due / surplus, turn.wrapping_add(to as u64)).min(left);
        if amount > 0 && amount >= parties[me].base / SMALLEST_LOAN {
            loans.push((to, amount));
            left -= amount;
        }
    }
    loans
}

/// Whether the slot has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Units move to whoever lacks them.
    Begun,
    /// As in [`Ahead::Begun`], but there is time: where all lack units, a region is lent to when it has clearly less than
    /// its part of what is left. Forecasts for hours waver, and each unit that travels is gone if its borrower crashes.
    Unhurried,
    /// They also move to whoever would lack them if demand jumped there: a region without a reserve refuses until a
    /// loan has come.
    ToCome,
}

/// How much each region should have.
struct Targets {
    /// The part of its target below which a region that lacks nothing is lent to all the same.
    reserve: f64,
    /// The part of its target that a region may lack before it is lent to.
    tolerance: f64,
    have: f64,
    need: f64,
    /// Where more is there than needed: what each region gets of the rest.
    slack: f64,
}

impl Targets {
    fn new(parties: &[Party], ahead: Ahead) -> Self {
        let reachable = || parties.iter().filter(|party| party.reachable);
        let have: f64 = reachable().map(|party| party.have.max(0.0)).sum();
        let need: f64 = reachable().map(|party| party.need).sum();
        let slack = (have - need).max(0.0) / reachable().count().max(1) as f64;
        let lacking = parties.iter().any(Party::lacks);
        // The last units of a small limit are no reserve: they would only travel.
        let few = have < FEW * reachable().count() as f64;
        let reserve = match ahead {
            _ if few => 0.0,
            Ahead::ToCome => RESERVE,
            Ahead::Begun | Ahead::Unhurried if lacking => 0.0,
            Ahead::Begun | Ahead::Unhurried => LEAST_RESERVE,
        };
        let tolerance = if ahead == Ahead::Unhurried && need > have { TOLERANCE } else { 0.0 };
        Self { reserve, tolerance, have, need, slack }
    }

    fn of(&self, parties: &[Party], at: usize) -> f64 {
        let need = parties[at].need;
        if self.need <= self.have {
            return need + self.slack;
        }
        let proportional = self.have * need / self.need;
        // An idle region keeps a little, so that its first requests are served, but no part of a unit.
        let floor = self.have * FLOOR;
        if proportional >= floor || floor < 1.0 { proportional } else { floor }
    }

    /// What a region lacks; nothing for one whose needs are met, else units would move for evenness' sake alone.
    fn deficit(&self, parties: &[Party], at: usize) -> f64 {
        let party = parties[at];
        let unprepared = party.have < self.of(parties, at) * self.reserve;
        let short = party.have.max(0.0) <= self.of(parties, at) * (1.0 - self.tolerance);
        let lacks = party.have < party.need && short || unprepared;
        if lacks && party.reachable { (self.of(parties, at) - party.have.max(0.0)).max(0.0) } else { 0.0 }
    }

    /// What a region has beyond its target.
    fn surplus(&self, parties: &[Party], at: usize) -> f64 {
        let party = parties[at];
        if party.reachable { (party.have - self.of(parties, at)).max(0.0) } else { 0.0 }
    }
}

/// Whole units a lender can part with.
fn spare(lender: Party, target: f64) -> u64 {
    // Half a unit above its target is still its own where it will need it, and nobody's where it will not.
    let idle = lender.need < 0.5;
    let kept = if idle { 0.0 } else { target - 0.5 };
    (lender.have - kept).max(0.0).min(lender.have.max(0.0)) as u64
}

/// My part of what a region is due, in whole units: the lenders stand in an order that begins elsewhere each turn, and
/// each gives what brings the sum of those up to it to the next whole unit.
fn part(parties: &[Party], targets: &Targets, me: usize, of_surplus: f64, turn: u64) -> u64 {
    let count = parties.len();
    let first = (turn % count as u64) as usize;
    let mut sum = 0.0;
    for step in 0..count {
        let at = (first + step) % count;
        let upto = sum + of_surplus * targets.surplus(parties, at);
        if at == me {
            return (upto.ceil() - f64::ceil(sum)).max(0.0) as u64;
        }
        sum = upto;
    }
    0
}

/// The part of a deficit that is filled at once; the rest when fresher views have come.
const GIVEN: f64 = 0.9;

/// The part of its target that a region should hold of a slot to come, and of one that has begun while nobody lacks more.
const RESERVE: f64 = 0.9;
const LEAST_RESERVE: f64 = 0.7;

/// How uneven the rest of a long window may lie between regions that all lack units.
const TOLERANCE: f64 = 0.5;

/// Units for each region below which nobody holds a reserve.
const FEW: f64 = 10.0;

/// The part of all that is left that a region without demand keeps.
const FLOOR: f64 = 0.02;

/// Loans below this part of the lender's base are not worth their bytes.
const SMALLEST_LOAN: u64 = 2000;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn party(need: f64, have: f64) -> Party {
        Party { need, have, base: have as u64, reachable: true }
    }

    /// Every region's loans, applied one after the other on the same view.
    fn lent(parties: &[Party], turn: u64) -> Vec<f64> {
        let mut after: Vec<f64> = parties.iter().map(|party| party.have).collect();
        for me in 0..parties.len() {
            for (to, amount) in loans(parties, me, Ahead::Begun, turn) {
                after[me] -= amount as f64;
                after[to] += amount as f64;
            }
        }
        after
    }

    #[test]
    fn units_go_where_the_demand_is() {
        let after = lent(&[party(900.0, 200.0), party(50.0, 400.0), party(20.0, 400.0)], 0);
        assert!(after[0] > 820.0 && after[1] > 50.0 && after[2] > 20.0, "{after:?}");
        assert_eq!(lent(&[party(100.0, 500.0), party(100.0, 500.0)], 0), [500.0, 500.0], "needs are met");
    }

    #[test]
    fn in_overload_everyone_gets_the_same_part_of_its_need() {
        let after = lent(&[party(1000.0, 400.0), party(500.0, 400.0), party(0.0, 400.0)], 0);
        assert!((735.0..=800.0).contains(&after[0]) && after[1] == 400.0, "{after:?}");
    }

    #[test]
    fn whole_units_of_a_small_limit_move_at_once_and_lenders_take_turns() {
        let one_roams = [party(8.0, 2.0), party(0.0, 2.0), party(0.0, 2.0), party(0.0, 2.0), party(0.0, 2.0)];
        assert!(lent(&one_roams, 0)[0] >= 7.0, "{:?}", lent(&one_roams, 0));
        let last_units = [party(0.5, 0.0), party(0.0, 1.0), party(0.0, 1.0), party(0.0, 1.0), party(0.0, 1.0)];
        let lenders = |turn| (1..5).filter(|&at| lent(&last_units, turn)[at] == 0.0).collect::<Vec<_>>();
        assert_eq!((lenders(1), lenders(3)), (vec![1, 4], vec![2, 3]));
    }

    #[test]
    fn in_a_long_window_a_little_unevenness_moves_nothing() {
        let lent = |have| loans(&[party(5000.0, have), party(5500.0, 233.0)], 0, Ahead::Unhurried, 0).len();
        assert_eq!((lent(200.0), lent(900.0)), (0, 1));
    }

    #[test]
    fn nothing_goes_to_or_is_expected_of_a_region_that_is_not_heard() {
        let cut_off = Party { reachable: false, ..party(900.0, 100.0) };
        assert_eq!(lent(&[cut_off, party(10.0, 400.0), party(300.0, 100.0)], 0)[0], 100.0);
        let lender_cut_off = Party { reachable: false, ..party(0.0, 400.0) };
        let alone = [lender_cut_off, party(10.0, 100.0), party(100.0, 20.0)];
        assert_eq!(lent(&alone, 0)[0], 400.0);
        assert!(lent(&alone, 0)[2] > 80.0, "the others lend as if it were not there");
    }

    proptest! {
        #[test]
        fn nobody_lends_more_than_it_has(needs in vec((0.0..500.0, 0.0..300.0), 2..20), turn: u64) {
            let parties: Vec<Party> = needs.iter().map(|&(need, have): &(f64, f64)| party(need, have.floor())).collect();
            for me in 0..parties.len() {
                let given: u64 = loans(&parties, me, Ahead::ToCome, turn).iter().map(|&(_, amount)| amount).sum();
                prop_assert!(given as f64 <= parties[me].have);
            }
        }
    }
}
