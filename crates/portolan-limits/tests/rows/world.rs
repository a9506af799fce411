//! A run of one row: a discrete-event simulation in virtual time. One seed gives one history.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use portolan_limits::{Message, Recovery};
use portolan_model::WallTime;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    demand::Moment,
    network::{Network, unit},
    oracle::{Errors, Oracle},
    region::{Answer, Region, epoch},
    table::{Fault, Row},
    watch::Watch,
};

/// Regions start within one gossip interval of each other, so that their rounds do not fall together.
const STARTS_WITHIN_US: u64 = 100_000;

enum Event {
    Boot(usize),
    Arrival(usize),
    Message { from: usize, to: usize, message: Message },
    Wake(usize),
    Durable(usize),
    Expire(usize),
    Fault(usize),
}

/// A request that waits for its answer.
struct Waiting {
    arrived: u64,
    /// In which it was asked for last.
    slot: u64,
    until: u64,
}

pub struct World<'a> {
    row: &'a Row,
    pub oracle: Oracle,
    pub messages: u64,
    pub steps: u64,
    watch: Watch,
    epoch: WallTime,
    regions: Vec<Region>,
    waiting: Vec<VecDeque<Waiting>>,
    woken_at: Vec<Option<u64>>,
    durable_at: Vec<Option<u64>>,
    network: Network,
    rng: ChaCha8Rng,
    now: u64,
    next: u64,
    events: BTreeMap<(u64, u64), Event>,
}

impl<'a> World<'a> {
    pub fn new(row: &'a Row, seed: u64) -> Self {
        let count = row.demand.regions();
        let epoch = epoch(row, seed);
        let mut world = Self {
            row,
            oracle: Oracle::default(),
            messages: 0,
            steps: 0,
            epoch,
            regions: (0..count).map(|at| Region::new(at, epoch)).collect(),
            waiting: (0..count).map(|_| VecDeque::new()).collect(),
            woken_at: vec![None; count],
            durable_at: vec![None; count],
            network: Network::new(row.loss, row.repeats),
            watch: Watch::new(count),
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: 0,
            next: 0,
            events: BTreeMap::new(),
        };
        for at in 0..count {
            let offset = world.rng.next_u64() % STARTS_WITHIN_US;
            world.regions[at].clock_ms = row.skew_ms.get(at).copied().unwrap_or(0);
            world.at(offset, Event::Boot(at));
            world.schedule_arrival(at);
        }
        for (index, (time, _)) in row.faults.iter().enumerate() {
            world.at(time.as_micros() as u64, Event::Fault(index));
        }
        world
    }

    /// Errors over the slots that the row measures.
    pub fn errors(&self) -> Errors {
        let slot = |at: Duration| self.row.slot(self.epoch + at);
        let (from, to) = self.row.measured;
        self.oracle.errors(self.row.quota, slot(from) + 1..slot(to))
    }

    /// Runs to the end of the row.
    pub fn run(mut self) -> Self {
        let end = self.row.length.as_micros() as u64;
        while let Some(((time, _), event)) = self.events.pop_first() {
            if time > end {
                break;
            }
            self.now = time;
            self.steps += 1;
            let touched = self.handle(event);
            if let Some(at) = touched {
                self.watch.stepped(at, &self.regions[at], self.row, self.now);
            }
        }
        self
    }

    fn at(&mut self, time: u64, event: Event) {
        self.next += 1;
        self.events.insert((time, self.next), event);
    }

    /// Returns the region that the event happened to.
    fn handle(&mut self, event: Event) -> Option<usize> {
        match event {
            Event::Boot(at) => {
                self.regions[at].boot(self.row, Recovery::FirstStart, self.now);
                self.settle(at);
                Some(at)
            }
            Event::Arrival(at) => {
                if unit(&mut self.rng) * self.peak(at) < self.rate(at) {
                    self.request(at);
                }
                self.schedule_arrival(at);
                Some(at)
            }
            Event::Message { from, to, message } => {
                self.regions[to].take(from, message, self.now);
                self.settle(to);
                Some(to)
            }
            Event::Wake(at) => {
                self.woken_at[at] = None;
                let due = self.regions[at].timeout().is_some_and(|timeout| timeout <= self.now);
                if due {
                    self.regions[at].wake(self.now);
                }
                self.settle(at);
                if due {
                    self.watch.round_ended(at, &self.regions[at], self.now);
                }
                Some(at)
            }
            Event::Durable(at) => {
                self.regions[at].sync(self.now);
                self.settle(at);
                Some(at)
            }
            Event::Expire(at) => {
                self.answer_waiting(at);
                Some(at)
            }
            Event::Fault(index) => {
                let fault = self.row.faults[index].1.clone();
                self.fault(&fault);
                None
            }
        }
    }

    fn fault(&mut self, fault: &Fault) {
        match *fault {
            Fault::Link(ref link) => self.network.change(link, self.regions.len()),
            Fault::Crash(at) => {
                let lands = self.rng.next_u64().is_multiple_of(2);
                self.regions[at].crash(lands);
                // Their clients see the connection end.
                self.waiting[at].clear();
            }
            Fault::LoseDisk(at) => {
                self.regions[at].lose_disk();
                self.watch.disk_lost(at);
            }
            Fault::Restart(at) if self.regions[at].runs() => {}
            Fault::Restart(at) => {
                self.watch.restarted(at);
                self.regions[at].restart(self.row, self.now);
                self.settle(at);
            }
            Fault::Clock(at, offset_ms) => self.regions[at].clock_ms = offset_ms,
        }
    }

    fn request(&mut self, at: usize) {
        let Some(answer) = self.regions[at].ask(self.now) else { return };
        match answer {
            Answer::Allow { slot } => self.oracle.allow(slot),
            Answer::Deny { slot } => self.oracle.refuse(slot),
            Answer::Wait { slot, at_most } => {
                let until = self.now + at_most.as_micros() as u64;
                self.waiting[at].push_back(Waiting { arrived: self.now, slot, until });
                self.at(until, Event::Expire(at));
            }
        }
        self.attend(at);
    }

    /// Lets the state machine look at once if the limiter says so.
    fn attend(&mut self, at: usize) {
        if self.regions[at].take_attention() {
            self.regions[at].wake(self.now);
            self.settle(at);
        }
    }

    /// Carries out what the state machine wants after an input, and asks again for those who wait.
    fn settle(&mut self, at: usize) {
        self.carry_out(at);
        self.answer_waiting(at);
        if self.regions[at].take_attention() {
            self.regions[at].wake(self.now);
            self.carry_out(at);
        }
    }

    fn carry_out(&mut self, at: usize) {
        for (to, message) in self.regions[at].drain(self.now) {
            self.messages += 1;
            self.watch.sent(at, to, &message, &self.regions[at], self.row);
            for delay in self.network.carry(at, to, &mut self.rng) {
                self.at(self.now + delay, Event::Message { from: at, to, message: message.clone() });
            }
        }
        let durable_at = self.regions[at].durable_at();
        if let Some(time) = durable_at.filter(|_| durable_at != self.durable_at[at]) {
            self.at(time, Event::Durable(at));
        }
        self.durable_at[at] = durable_at;
        if let Some(time) = self.regions[at].timeout()
            && self.woken_at[at].is_none_or(|woken| woken > time.max(self.now))
        {
            self.woken_at[at] = Some(time.max(self.now));
            self.at(time.max(self.now), Event::Wake(at));
        }
    }

    /// First come, first served; whoever waited long enough is refused.
    fn answer_waiting(&mut self, at: usize) {
        while let Some(first) = self.waiting[at].pop_front() {
            let waited = Duration::from_micros(self.now - first.arrived);
            match self.regions[at].ask_again(first.slot, self.now) {
                Some(Answer::Wait { slot, at_most }) if first.arrived + at_most.as_micros() as u64 > self.now => {
                    let until = first.arrived + at_most.as_micros() as u64;
                    if until != first.until {
                        self.at(until, Event::Expire(at));
                    }
                    self.waiting[at].push_front(Waiting { slot, until, ..first });
                    return;
                }
                Some(Answer::Allow { slot }) => {
                    self.oracle.allow(slot);
                    self.oracle.wait(waited);
                }
                Some(Answer::Wait { slot, .. } | Answer::Deny { slot }) => {
                    self.oracle.refuse(slot);
                    self.oracle.wait(waited);
                }
                None => return,
            }
        }
    }

    fn schedule_arrival(&mut self, at: usize) {
        let peak = self.peak(at);
        if peak > 0.0 {
            // Exponential gaps at the highest rate, thinned to the present one (Lewis, Shedler 1979).
            let gap = -(1.0 - unit(&mut self.rng)).ln() / peak * 1e6;
            self.at(self.now + gap as u64, Event::Arrival(at));
        }
    }

    fn per_second(&self) -> f64 {
        self.row.quota as f64 / self.row.window.as_secs_f64()
    }

    fn peak(&self, at: usize) -> f64 {
        self.row.demand.peak(at, self.row.window.as_secs_f64()) * self.per_second()
    }

    fn rate(&self, at: usize) -> f64 {
        let slot = self.row.window.as_millis() as u64;
        let civil = self.epoch + Duration::from_micros(self.now);
        let in_slot = (civil.as_unix_millis() % slot) as f64 / 1e3;
        let moment = Moment { seconds: self.now as f64 / 1e6, in_slot, slot: self.row.window.as_secs_f64() };
        self.row.demand.rate(at, moment) * self.per_second()
    }
}
