//! Drives a host's node as the production driver does, with the world's network, disk and clock in place of real ones.

use portolan_limits::MarkSequence;
use portolan_node::{Event, Transmit};
use portolan_routing::{EndpointId, ProbeOutcome};
use rand::RngExt;
use tokio::time::Duration;

use crate::{
    wire::{Life, Wire},
    world::{Plan, World},
};

/// Time a durable write of marks takes: from a good disk to a busy one.
const SYNC: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));

/// How often a write is tried again for which there was no space.
const WRITE_RETRY: Duration = Duration::from_millis(100);

/// From one turn of a node's loop to the next.
const TURN: Duration = Duration::from_millis(1);

/// What a probe takes besides the round trip.
const PROBE_COST: Duration = Duration::from_millis(1);

impl World<'_> {
    /// Has everything that a node asks for carried out once all inputs of this instant have come: the production loop too
    /// takes what has gathered before it looks at what the node wants.
    pub fn stir(&mut self, host: usize) {
        if !std::mem::replace(&mut self.hosts[host].stirred, true) {
            self.agenda.plan(self.now, Plan::CarryOut(host));
        }
    }

    /// Carries out everything the node asks for, and plans its next waking.
    pub fn carry_out_wishes(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        place.stirred = false;
        if place.paused.is_some() {
            return;
        }
        let wanted = std::mem::take(&mut place.wanted);
        if let Some(process) = place.process.as_mut().filter(|_| wanted) {
            process.node.handle_timeout(place.clock.at(self.now));
        }
        let life = Life { host, number: place.lives };
        let now = self.now;
        loop {
            let Some(process) = self.process(life) else { return };
            if let Some(transmit) = process.node.poll_transmit() {
                let Transmit { to, class, message } = transmit;
                self.send(host, &to, class, Wire::Node(message));
            } else if let Some(write) = process.node.poll_marks() {
                let pages = process.marks.append(&write);
                let place = &mut self.hosts[host];
                let cost = place.draws.random_range(SYNC.0..SYNC.1);
                let done = place.marks.begin(write.sequence, pages, cost, now);
                self.agenda.plan(done, Plan::Synced(life, write.sequence));
            } else if let Some((lender, request)) = process.node.poll_loan() {
                self.ask_lender(life, &lender, request);
            } else if let Some(request) = process.node.poll_probe() {
                let view = process.node.view();
                let Some(endpoint) = view.board.endpoint(request.endpoint, now) else { continue };
                let rtt = self.sources.regions.rtt(&self.hosts[host].region, endpoint.region);
                self.agenda.plan(now + rtt + PROBE_COST, Plan::Probed(life, request.endpoint));
            } else if let Some(command) = process.node.poll_proposal() {
                let raft = process.raft.clone();
                // Its outcome shows in the intent; what is still due is proposed again.
                tokio::spawn(async move { drop(raft.propose(command).await) });
            } else if let Some(event) = process.node.poll_event() {
                self.handle_event(host, event);
            } else {
                break;
            }
        }
        self.plan_waking(life);
        if self.process(life).is_some_and(|process| process.node.take_relief()) {
            // What those want that ask again is for the next turn, so that no instant lasts for ever.
            self.hosts[host].stirred = true;
            self.relieve(host);
            let wanted = self.hosts[host].wanted;
            self.hosts[host].stirred = wanted;
            if wanted {
                self.agenda.plan(now + TURN, Plan::CarryOut(host));
            }
        }
    }

    fn plan_waking(&mut self, life: Life) {
        let now = self.now;
        let Some(process) = self.process(life) else { return };
        let Some(at) = process.node.poll_timeout() else { return };
        // Tokio's clock has whole milliseconds; a timeout of this very moment waits for the next.
        let at = at.max(now + Duration::from_millis(1));
        if process.wake_at.is_none_or(|planned| at < planned || planned <= now) {
            process.wake_at = Some(at);
            self.agenda.plan(at, Plan::Wake(life));
        }
    }

    /// The node's timeout.
    pub fn wake(&mut self, life: Life) {
        let now = self.hosts[life.host].clock.at(self.now);
        let Some(process) = self.process(life) else { return };
        // A later plan that was overtaken by an earlier one finds nothing to do.
        if process.wake_at.is_some_and(|at| at > now.mono) {
            return;
        }
        process.wake_at = None;
        process.node.handle_timeout(now);
        self.stir(life.host);
    }

    /// Marks have reached the disk, or found it full.
    pub fn marks_synced(&mut self, life: Life, sequence: MarkSequence) {
        let place = &mut self.hosts[life.host];
        if place.lives != life.number {
            return;
        }
        if !place.marks.finish(sequence) {
            self.agenda.plan(self.now + WRITE_RETRY, Plan::Synced(life, sequence));
            return;
        }
        let now = place.clock.at(self.now);
        if let Some(process) = &mut place.process {
            process.node.handle_durable(sequence, now);
        }
        self.stir(life.host);
    }

    /// A probe has come back; endpoints of a simulation do not fail.
    pub fn probed(&mut self, life: Life, endpoint: EndpointId) {
        let now = self.hosts[life.host].clock.at(self.now);
        let Some(process) = self.process(life) else { return };
        process.node.handle_probe(endpoint, ProbeOutcome::Success, now);
        self.stir(life.host);
    }

    /// Its limits have asked for attention.
    pub fn attend(&mut self, host: usize) {
        self.hosts[host].wanted = true;
        self.stir(host);
    }

    fn handle_event(&mut self, host: usize, event: Event) {
        let name = self.hosts[host].name.clone();
        match event {
            Event::EligibleForElection(eligible) => {
                if let Some(process) = &self.hosts[host].process {
                    process.raft.set_eligible(eligible);
                }
            }
            Event::RegionDown { region } => self.note(format_args!("`{name}` finds {region} down")),
            Event::RegionUp { region } => self.note(format_args!("`{name}` finds {region} up again")),
            Event::Ready(true) => self.note(format_args!("`{name}` is ready")),
            Event::Ready(false) => self.note(format_args!("`{name}` is not ready")),
            Event::Limits(portolan_limits::Event::Mode { mode }) => {
                self.note(format_args!("limits of `{name}` are {mode:?}"));
                self.hosts[host].mode = mode;
            }
            _ => {}
        }
    }
}
