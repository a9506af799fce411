//! Lenders of the simulated world: which process talks to which, what way that takes, and what is broken about it. What
//! a lender lends is in `vault`, what a process makes of its answers in `link`.
//!
//! A request takes half a round trip to the lender and is answered there at once; where the lender cannot be reached it
//! is not, as behind a firewall that drops packets.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Intent, LenderState, Scenario};
use portolan_limits::{ANSWER_TIMEOUT, LoanRequest};
use portolan_model::{Name, RegionId, Timestamp};
use rand::RngExt;
use tokio::time::Duration;

use crate::{
    link::{Act, Heard, Link},
    vault::Vault,
    wire::Life,
    world::{Plan, World},
};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How often an unreachable lender that can be connected to is asked for a sign of life.
const PROBE_PERIOD: Duration = Duration::from_millis(400);

/// The lenders of a run.
pub struct Lenders {
    /// By address.
    vaults: BTreeMap<String, Vault>,
    /// Round trips, by place of the region.
    trips: Vec<Duration>,
    /// What is broken, by step.
    broken: BTreeMap<usize, (Vec<RegionId>, LenderState)>,
    links: u64,
}

/// A request on its way to a lender.
pub struct Errand {
    life: Life,
    lender: Name,
    link: u64,
    number: u64,
    address: String,
    request: LoanRequest,
    lifetime: Duration,
}

/// What a process hears of a lender.
pub struct News {
    /// The process.
    pub life: Life,
    lender: Name,
    link: u64,
    heard: Heard,
}

impl Lenders {
    /// None is known yet, and none is broken.
    pub fn new(regions: &[RegionId], scenario: &Scenario) -> Self {
        let trips = regions.iter().map(|region| scenario.redis_rtt_from(region)).collect();
        Self { vaults: BTreeMap::new(), trips, broken: BTreeMap::new(), links: 0 }
    }

    /// Breaks something until [`Lenders::mend`] is called with the same number.
    pub fn worsen(&mut self, number: usize, regions: Vec<RegionId>, state: LenderState) {
        if state == LenderState::Lost {
            self.vaults.values_mut().for_each(Vault::forget);
        }
        self.broken.insert(number, (regions, state));
    }

    /// Ends what a step did.
    pub fn mend(&mut self, number: usize) {
        self.broken.remove(&number);
    }

    /// Whether nothing is broken.
    pub fn are_well(&self) -> bool {
        self.broken.is_empty()
    }

    /// By how much answers to a region come later; `None` while it cannot reach a lender.
    fn late_by(&self, region: &RegionId) -> Option<Duration> {
        let of_region = self.broken.values().filter(|(regions, _)| regions.is_empty() || regions.contains(region));
        of_region.map(|(_, state)| *state).try_fold(Duration::ZERO, |late, state| match state {
            LenderState::Down | LenderState::Lost => None,
            LenderState::Slow(by) => Some(late + by),
        })
    }
}

impl World<'_> {
    /// Starts and ends the links of a process so that exactly the lenders of the document have one, and tells its limits
    /// which of them can be counted on. None runs before the cluster is founded.
    pub fn follow_lenders(&mut self, life: Life, intent: &Intent) {
        if intent.founder.is_none() {
            return;
        }
        let mut links = self.lenders.links;
        let Some(process) = self.process(life) else { return };
        let lenders = &intent.snapshot.lenders;
        process.links.retain(|name, link| lenders.get(name) == Some(link.config()));
        let mut begun = Vec::new();
        for (name, config) in lenders {
            if !process.links.contains_key(name) {
                links += 1;
                process.links.insert(name.clone(), Link::new(links, Arc::clone(config)));
                begun.push(name.clone());
            }
        }
        self.lenders.links = links;
        begun.iter().for_each(|name| self.turn_link(life, name));
        self.judge_lenders(life);
    }

    /// Asks a lender for a chunk that the node wants; refuses it where the lender has too much to do, or does not run.
    pub fn ask_lender(&mut self, life: Life, lender: &Name, request: LoanRequest) {
        let now = self.hosts[life.host].clock.at(self.now);
        let Some(process) = self.process(life) else { return };
        let refused = request.ended(None);
        if process.links.get_mut(lender).is_some_and(|link| link.ask(request, now.mono)) {
            self.turn_link(life, lender);
        } else {
            process.node.handle_loan(refused, now);
        }
    }

    /// A request has come to its lender, which answers it unless it cannot be reached.
    pub fn lend(&mut self, errand: Errand) {
        let now = self.now;
        let (region, place) = (&self.hosts[errand.life.host].region, self.hosts[errand.life.host].place);
        let Some(late) = self.lenders.late_by(region) else { return };
        let back = self.lenders.trips[place].div_f64(2.0) + late;
        let vault = self.lenders.vaults.entry(errand.address.clone()).or_default();
        let granted = vault.lend(place, &errand.request, errand.lifetime, now);
        let LoanRequest { limit, slot, units, .. } = errand.request;
        self.trace.numbers([u64::from(limit.0) << 48 ^ slot, granted.held << 32 ^ granted.total]);
        if self.options.write.is_some() {
            let (at, name) = (self.since_zero(), self.hosts[errand.life.host].name.clone());
            let what = format!(
                "limit {}, slot {slot}: {units} wanted, {} lent, {} to all",
                limit.0, granted.held, granted.total
            );
            self.write_line(at, "lent", errand.lender.as_str(), name.as_str(), &what);
        }
        self.plan_news((errand.life, errand.lender, errand.link), now + back, Heard::Answered(errand.number, granted));
    }

    /// A process hears of a lender. Where that cannot be reached any more, it hears nothing that the lender sent.
    pub fn hear_lender(&mut self, news: News) {
        let cut = self.lenders.late_by(&self.hosts[news.life.host].region).is_none();
        let heard = match news.heard {
            // Its time will be up.
            Heard::Answered(..) if cut => return,
            Heard::Pong if cut => Heard::NoPong,
            heard => heard,
        };
        let now = self.now;
        let Some(link) = self.process(news.life).and_then(|process| process.links.get_mut(&news.lender)) else {
            return;
        };
        if link.number != news.link {
            return;
        }
        link.hear(heard, now);
        self.turn_link(news.life, &news.lender);
        self.stir(news.life.host);
    }

    /// Carries out what a link wants done.
    fn turn_link(&mut self, life: Life, lender: &Name) {
        loop {
            let place = &self.hosts[life.host];
            let (now, region, trip) = (place.clock.at(self.now), place.region.clone(), self.lenders.trips[place.place]);
            let Some(process) = self.process(life) else { return };
            let Some(link) = process.links.get_mut(lender) else { return };
            let Some(act) = link.poll() else { return };
            let (number, address) = (link.number, link.config().redis.clone());
            let of = (life, lender.clone(), number);
            match act {
                Act::Reply(reply) => process.node.handle_loan(reply, now),
                Act::Judged => {
                    let found = if link.is_reachable() { "up again" } else { "unreachable" };
                    let name = self.hosts[life.host].name.clone();
                    self.note(format_args!("`{name}` finds lender `{lender}` {found}"));
                    self.judge_lenders(life);
                }
                Act::Rest(most) => {
                    let pause = most.mul_f64(self.hosts[life.host].draws.random_range(0.0..1.0));
                    self.plan_news(of, now.mono + pause, Heard::Rested);
                }
                Act::PingLater => self.plan_news(of, now.mono + PROBE_PERIOD, Heard::PingDue),
                Act::Connect => {
                    self.plan_answer(of, &region, trip, CONNECT_TIMEOUT, Heard::Connected, Heard::NotConnected)
                }
                Act::Ping => self.plan_answer(of, &region, trip, ANSWER_TIMEOUT, Heard::Pong, Heard::NoPong),
                Act::Ask(number, request) => {
                    let lifetime = request.kept_for(now.wall);
                    let (life, lender, link) = of.clone();
                    let errand = Errand { life, lender, link, number, address, request, lifetime };
                    self.agenda.plan(now.mono + trip.div_f64(2.0), Plan::Lend(Box::new(errand)));
                    self.plan_news(of, now.mono + ANSWER_TIMEOUT, Heard::Late(number));
                }
            }
        }
    }

    /// Plans the answer to something that changes nothing at the lender, or that there is none within `most`.
    fn plan_answer(
        &mut self,
        of: (Life, Name, u64),
        region: &RegionId,
        trip: Duration,
        most: Duration,
        answer: Heard,
        otherwise: Heard,
    ) {
        let now = self.now;
        match self.lenders.late_by(region).map(|late| trip + late).filter(|took| *took <= most) {
            Some(took) => self.plan_news(of, now + took, answer),
            None => self.plan_news(of, now + most, otherwise),
        }
    }

    fn plan_news(&mut self, (life, lender, link): (Life, Name, u64), at: Timestamp, heard: Heard) {
        self.agenda.plan(at, Plan::Lender(Box::new(News { life, lender, link, heard })));
    }

    /// Tells the limits of a process which lenders can be counted on at this moment.
    fn judge_lenders(&mut self, life: Life) {
        let now = self.hosts[life.host].clock.at(self.now);
        let Some(process) = self.process(life) else { return };
        for (name, link) in &process.links {
            process.node.handle_lender(name, link.is_reachable(), now);
        }
    }
}
