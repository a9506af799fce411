//! Carries packets between hosts, and calls of Raft with their answers.

use std::collections::BTreeMap;

use portolan_model::NodeName;
use portolan_node::Class;
use portolan_raft::{Request, Response};
use tokio::sync::oneshot;

use crate::{
    network::{Carriage, Departure},
    trace::Fate,
    wire::{self, Errand, Life, Wire},
    world::{Plan, World},
};

/// Calls under way.
#[derive(Default)]
pub struct Mail {
    calls: BTreeMap<u64, Call>,
    called: u64,
}

/// A call of Raft that waits for its answer.
struct Call {
    caller: Life,
    reply: oneshot::Sender<Response>,
}

/// Calls kept before those whose caller has given up are swept out.
const CALLS_SWEPT_AT: usize = 1024;

impl World<'_> {
    /// Raft of a host calls another.
    pub fn call(&mut self, from: Life, to: &NodeName, request: Request, reply: oneshot::Sender<Response>) {
        let number = self.mail.called;
        self.mail.called += 1;
        if self.mail.calls.len() >= CALLS_SWEPT_AT {
            self.mail.calls.retain(|_, call| !call.reply.is_closed());
        }
        self.mail.calls.insert(number, Call { caller: from, reply });
        if self.hosts[from.host].lives == from.number {
            self.send(from.host, to, Class::Stream, Wire::Request(number, request));
        }
    }

    /// Raft of a host has answered a call.
    pub fn answer(&mut self, from: Life, caller: Life, call: u64, response: Response) {
        if self.hosts[from.host].lives == from.number {
            let to = self.hosts[caller.host].name.clone();
            self.send(from.host, &to, Class::Stream, Wire::Response(call, response));
        }
    }

    /// Sends a packet on its way.
    pub fn send(&mut self, from: usize, to: &NodeName, class: Class, wire: Wire) {
        let Some(&target) = self.host_names.get(to) else { return };
        let (from_region, to_region) = (self.hosts[from].place, self.hosts[target].place);
        let carriage = if class == Class::Datagram { Carriage::Datagram } else { Carriage::Stream };
        let wire = if self.options.check_codec { wire::checked(wire) } else { wire };
        let bytes = if self.network.is_narrow(from_region, to_region) { wire::encode(&wire).len() } else { 0 };
        let now = self.now;
        let departure = match self.network.depart(from_region, to_region, carriage, bytes, now) {
            _ if self.network.is_severed(from, target) => Departure::Cut,
            departure => departure,
        };
        match departure {
            Departure::Arrives { after, again } => {
                if let Some(again) = again.and_then(|again| Some((again, wire.copy()?))) {
                    let copy = Plan::Arrive { from, to: target, wire: Box::new(again.1) };
                    self.agenda.plan(now + again.0, copy);
                }
                self.agenda.plan(now + after, Plan::Arrive { from, to: target, wire: Box::new(wire) });
            }
            Departure::Lost => self.note_packet(from, target, &wire, Fate::Lost),
            Departure::Cut => self.note_packet(from, target, &wire, Fate::Cut),
        }
    }

    /// A packet has come to the end of its way.
    pub fn arrive(&mut self, from: usize, to: usize, wire: Wire) {
        let places = (self.hosts[from].place, self.hosts[to].place);
        let cut = self.network.is_severed(from, to) || places.0 != places.1 && self.network.is_cut(places.0, places.1);
        let fate = match (cut, &self.hosts[to].process) {
            (true, _) => Fate::Cut,
            (false, None) => Fate::NoNode,
            (false, Some(_)) => Fate::Delivered,
        };
        self.note_packet(from, to, &wire, fate);
        if fate != Fate::Delivered {
            return;
        }
        let life = Life { host: to, number: self.hosts[to].lives };
        match wire {
            Wire::Node(message) => {
                let now = self.hosts[to].clock.at(self.now);
                let sender = self.hosts[from].name.clone();
                if let Some(process) = self.process(life) {
                    // Refusals are ordinary for a moment after a change of limits; the node counts them.
                    let _ = process.node.handle_message(&sender, message, now);
                }
                self.stir(to);
            }
            Wire::Request(call, request) => {
                let Some(caller) = self.mail.calls.get(&call).map(|call| call.caller) else { return };
                let (sender, errands) = (self.hosts[from].name.clone(), self.errands.clone());
                let Some(raft) = self.process(life).map(|process| process.raft.clone()) else { return };
                tokio::spawn(async move {
                    let response = raft.handle(&sender, request).await;
                    // Nobody listens once the run is over.
                    let _ = errands.send(Errand::Answer { from: life, caller, call, response });
                });
            }
            Wire::Response(call, response) => {
                if let Some(call) = self.mail.calls.remove(&call).filter(|call| call.caller == life) {
                    // The caller may have given up.
                    let _ = call.reply.send(response);
                }
            }
        }
    }

    fn note_packet(&mut self, from: usize, to: usize, wire: &Wire, fate: Fate) {
        self.trace.packet(self.now, from, to, wire.kind(), fate);
        if self.options.write.is_some() {
            let at = self.since_zero();
            let (from, to) = (self.hosts[from].name.clone(), self.hosts[to].name.clone());
            self.write_line(at, fate.word(), from.as_str(), to.as_str(), &wire.words());
        }
    }
}
