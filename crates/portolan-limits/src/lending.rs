//! Who lends how much to whom, for one key in one slot. A pure function that every region computes for itself from what
//! it knows: no leader, no reply, no agreement. Whatever it answers, the bound holds, since a region lends only what it
//! takes out of its own rights first; a wrong view only moves units to the wrong place. Never lends to a region that is
//! not heard.

use std::ops::Range;

use smallvec::SmallVec;

/// One region as the lender sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Party {
    /// Units it will be asked for until the slot ends, with a margin.
    pub need: f64,
    /// Units it may be asked for beyond that, going by the slots before.
    pub later: f64,
    /// Whether it is asked for more than the slots before tell of.
    pub risen: bool,
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

/// Whether the slot has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Units move to whoever lacks them.
    Begun,
    /// As in [`Ahead::Begun`], for those that will run dry soon: there is time, forecasts for hours waver, and each unit
    /// that travels is gone if its borrower crashes.
    Unhurried,
    /// They also move to whoever would lack them if demand jumped there: a region without a reserve refuses until a
    /// loan has come.
    ToCome,
}

/// Units that the region at `me` should lend, by the position of the receiver. `turn` differs from slot to slot and from
/// key to key: where less than a unit is due from each lender, they take turns by it.
///
/// Lenders and receivers are laid side by side, each as wide as what it gives or gets, and a lender gives to those it
/// lies beside. All who see the same do so alike, so that nothing is lent twice.
pub(crate) fn loans(parties: &[Party], me: usize, ahead: Ahead, turn: u64) -> SmallVec<[(usize, u64); 4]> {
    let mut loans = SmallVec::new();
    let targets = Targets::new(parties, ahead);
    if targets.surplus(parties, me) == 0 {
        return loans;
    }
    let offered: u64 = (0..parties.len()).map(|at| targets.surplus(parties, at)).sum();
    let wanted: u64 = (0..parties.len()).map(|at| targets.deficit(parties, at)).sum();
    let first = (turn % parties.len() as u64) as usize;
    let order = || (0..parties.len()).map(|step| (first + step) % parties.len());
    let mut given = Line::new(offered, wanted);
    let Some(mine) = order().map(|at| (at, given.next(targets.surplus(parties, at)))).find(|&(at, _)| at == me) else {
        return loans;
    };
    let mut got = Line::new(wanted, offered);
    for to in order() {
        let theirs = got.next(targets.deficit(parties, to));
        let beside = theirs.end.min(mine.1.end).saturating_sub(theirs.start.max(mine.1.start));
        if beside > 0 {
            loans.push((to, beside));
        }
    }
    loans
}

/// Whole numbers one behind the other, of which together no more than `most` counts: each is cut by the same part.
struct Line {
    sum: u64,
    whole: u64,
    most: u64,
}

impl Line {
    fn new(whole: u64, most: u64) -> Self {
        Self { sum: 0, whole: whole.max(1), most: most.min(whole) }
    }

    fn next(&mut self, amount: u64) -> Range<u64> {
        let start = self.upto();
        self.sum += amount;
        start..self.upto()
    }

    fn upto(&self) -> u64 {
        let part =
            (u128::from(self.sum) * u128::from(self.most) * 2 + u128::from(self.whole)) / (u128::from(self.whole) * 2);
        part as u64
    }
}

/// How much each region should have.
struct Targets {
    ahead: Ahead,
    have: f64,
    need: f64,
    later: f64,
    count: f64,
    /// Loans below this many units are not worth their bytes.
    least: f64,
    /// Whether some region has more than it will be asked for, whether one lacks, and whether one lacks a unit at once.
    idle: bool,
    lacking: bool,
    pressed: bool,
    /// Whether one lacks more than the slots before tell of, or, of a long window, at all: demand has moved there.
    moved: bool,
    /// Of a long window: who lacks a unit and needs more than anyone else, wherever the last units are.
    neediest: Option<usize>,
}

impl Targets {
    fn new(parties: &[Party], ahead: Ahead) -> Self {
        let reachable = || parties.iter().filter(|party| party.reachable);
        let sum = |of: fn(&Party) -> f64| reachable().map(of).sum::<f64>();
        let base: u64 = parties.iter().map(|party| party.base).sum();
        Self {
            ahead,
            have: sum(|party| party.have.max(0.0)),
            need: sum(|party| party.need),
            later: sum(|party| party.later),
            count: reachable().count().max(1) as f64,
            least: base as f64 / parties.len() as f64 * SMALLEST_LOAN,
            idle: reachable().any(|party| party.have > party.need + 0.5),
            lacking: parties.iter().any(Party::lacks),
            moved: parties.iter().any(|party| party.lacks() && (ahead == Ahead::Unhurried || party.risen)),
            neediest: neediest(parties).filter(|&at| ahead == Ahead::Unhurried && parties[at].lacks()),
            pressed: parties.iter().any(|party| party.lacks() && party.need >= 0.5),
        }
    }

    /// Whether all together will be asked for more than is left.
    fn scarce(&self) -> bool {
        self.need > self.have
    }

    fn of(&self, party: Party) -> f64 {
        if self.scarce() {
            let proportional = self.have * party.need / self.need;
            // An idle region keeps a little, so that its first requests are served, but no part of a unit.
            let floor = self.have * FLOOR;
            return if proportional >= floor || floor < 1.0 { proportional } else { floor };
        }
        let rest = self.have - self.need;
        if self.moved {
            // Then the slots before tell little.
            return party.need + rest / self.count;
        }
        let later = rest.min(self.later);
        let expected = if later > 0.0 { later * party.later / self.later } else { 0.0 };
        party.need + expected + (rest - later) / self.count
    }

    /// What of a difference from the target is the noise of forecasts.
    fn noise(target: f64) -> f64 {
        NOISE * target.max(0.0).sqrt()
    }

    /// The part of its target below which a region that lacks nothing is lent to all the same.
    fn reserve(&self) -> f64 {
        // The last units of a small limit are no reserve: they would only travel.
        let few = self.have < FEW * self.count;
        match self.ahead {
            _ if few => 0.0,
            Ahead::ToCome => RESERVE,
            Ahead::Unhurried => 0.0,
            Ahead::Begun if self.lacking => 0.0,
            Ahead::Begun => LEAST_RESERVE,
        }
    }

    /// Whole units that a region lacks; none for one whose needs are met, else units would move for evenness' sake alone.
    fn deficit(&self, parties: &[Party], at: usize) -> u64 {
        let party = parties[at];
        let target = self.of(party);
        let short = target - party.have.max(0.0);
        let lacks = if self.scarce() {
            self.idle || short > Self::noise(target)
        } else {
            party.have < party.need || party.have < target * self.reserve()
        };
        let due = GIVEN * short;
        if self.neediest == Some(at) && self.scarce() {
            // Of the last units the part of each is less than half a unit: where they lie nobody asks for them, and they
            // would stay there until the slot ends.
            return due.max(0.0).ceil() as u64;
        }
        if party.reachable && lacks && due >= self.least { (due + 0.5) as u64 } else { 0 }
    }

    /// Whole units that a region has beyond its target.
    fn surplus(&self, parties: &[Party], at: usize) -> u64 {
        let party = parties[at];
        let target = self.of(party);
        // Half a unit above its target is still its own where it will need it, and nobody's where it will not; but among
        // regions that are all hardly asked for a last unit would travel for ever.
        let idle = self.pressed && party.need < 0.5 && target < 1.0;
        let kept = if idle { 0.0 } else { target - 0.5 };
        let over = party.have - kept;
        let lends = !self.scarce() || party.have > party.need || party.have - target > Self::noise(target);
        if party.reachable && lends { over.max(0.0).min(party.have.max(0.0)) as u64 } else { 0 }
    }
}

/// The position of the region that needs most, and a whole unit.
fn neediest(parties: &[Party]) -> Option<usize> {
    let needs = |at: usize| parties[at].need;
    let pressed = (0..parties.len()).filter(|&at| parties[at].reachable && needs(at) >= 0.5);
    pressed.max_by(|&one, &other| needs(one).total_cmp(&needs(other)))
}

/// The part of a deficit that is filled at once; the rest when fresher views have come.
const GIVEN: f64 = 0.9;

/// The part of its target that a region should hold of a slot to come, and of one that has begun while nobody lacks more.
const RESERVE: f64 = 0.9;
const LEAST_RESERVE: f64 = 0.7;

/// Standard deviations of a Poisson process that regions that all lack units may be apart from their targets: each unit
/// that travels is nobody's meanwhile.
const NOISE: f64 = 1.0;

/// Units for each region below which nobody holds a reserve.
const FEW: f64 = 10.0;

/// The part of all that is left that a region without demand keeps.
const FLOOR: f64 = 0.02;

/// Loans below this part of the mean base are not worth their bytes.
const SMALLEST_LOAN: f64 = 0.005;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn party(need: f64, have: f64) -> Party {
        Party { need, later: 0.0, risen: true, have, base: have as u64, reachable: true }
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
        assert_eq!((lenders(1), lenders(3)), (vec![2], vec![4]));
    }

    #[test]
    fn in_a_long_window_units_stay_where_they_are_until_somebody_runs_dry() {
        let lent = |have| loans(&[party(20.0, 233.0), party(20.0, have)], 0, Ahead::Unhurried, 0).len();
        assert_eq!((lent(30.0), lent(10.0)), (0, 1));
    }

    #[test]
    fn in_a_long_window_the_last_unit_goes_where_it_is_needed_most_unless_its_holder_needs_it_too() {
        let lent = |own| loans(&[party(1.6, 0.0), party(own, 1.0), party(0.3, 0.0)], 1, Ahead::Unhurried, 0).to_vec();
        assert_eq!((lent(0.9), lent(1.5), lent(2.0)), (vec![(0, 1)], vec![], vec![]));
    }

    #[test]
    fn between_regions_that_all_lack_units_the_noise_of_forecasts_moves_nothing() {
        let lent = |have| lent(&[party(18.0, have), party(6.0, 4.0), party(3.0, 2.0)], 0)[1];
        assert_eq!((lent(10.0), lent(5.0)), (4.0, 4.0));
        assert!(lent(0.0) < 4.0, "a region that has nothing is lent to");
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
