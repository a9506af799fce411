//! Drives the sans-IO node: the clock, sockets, files and Raft on one side, its `handle_*` and `poll_*` on the other.
//! Holds no policy. One task owns the node, so nothing in it needs a lock.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use portolan_config::Intent;
use portolan_limits::{MarkSequence, Start};
use portolan_model::codec;
use portolan_node::{Class, Event, Message, Node, NodeStatus, RaftStatus, View};
use portolan_proxy::Proxy;
use portolan_raft::Raft;
use portolan_routing::{EndpointId, ProbeOutcome};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Interval, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, error, info, warn};

use crate::{
    clock::Clock,
    lender::LenderNews,
    lenders::Lenders,
    limit_events,
    marks_file::MarksWriter,
    mesh::{Inbound, Mesh, Urgency},
    probes::Prober,
    questions::{Inbox, Next, Question, Recent},
};

/// How often Raft is asked how it is.
const RAFT_STATUS: Duration = Duration::from_millis(100);

/// Longest sleep: a timer that the node forgot to set costs no more than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Everything the loop turns.
pub struct NodeLoop {
    /// The core.
    pub node: Node,
    /// Read once per turn.
    pub clock: Clock,
    /// Where messages go.
    pub mesh: Mesh,
    /// Where messages and questions of the admin API come from.
    pub inbox: Inbox<Inbound>,
    /// The node's status, for all who ask.
    pub status: Recent<NodeStatus>,
    /// Told who may stand for election; asked how it is.
    pub raft: Raft,
    /// The intent, each time it changes.
    pub intent: watch::Receiver<Arc<Intent>>,
    /// What the limits start with, once it is known.
    pub start: oneshot::Receiver<Start>,
    /// Where marks are written.
    pub marks: MarksWriter,
    /// The highest write of marks that is on disk with all before it.
    pub durable: watch::Receiver<MarkSequence>,
    /// Makes probes.
    pub prober: Prober,
    /// What probes found.
    pub outcomes: mpsc::Receiver<(EndpointId, ProbeOutcome)>,
    /// Where the data path takes its view from.
    pub view: Arc<ArcSwap<View>>,
    /// Requests that wait for a mark are told when it is on disk.
    pub proxy: Arc<Proxy>,
    /// Whom to ask for chunks of limits.
    pub lenders: Lenders,
    /// What lenders answered.
    pub lender_news: mpsc::Receiver<LenderNews>,
}

impl NodeLoop {
    /// Turns until dropped, or until a part ends that the node cannot do without.
    pub async fn run(mut self) {
        let mut raft_ticks = ticks(RAFT_STATUS);
        let mut started = false;
        self.node.set_member(self.raft.member(), self.clock.now());
        let intent = self.intent.borrow().clone();
        self.follow_lenders(&intent);
        loop {
            let timer = sleep_until(self.wake());
            // Messages and questions come last: however many there are, timers and marks have their turn.
            tokio::select! {
                biased;
                lives = self.durable.changed() => {
                    if lives.is_err() {
                        error!("nobody writes marks any more, so the limits would refuse everything: the node stops");
                        return;
                    }
                    let sequence = *self.durable.borrow_and_update();
                    self.node.handle_durable(sequence, self.clock.now());
                }
                Ok(()) = self.intent.changed() => {
                    let intent = self.intent.borrow_and_update().clone();
                    self.node.handle_intent(Arc::clone(&intent), self.clock.now());
                    self.follow_lenders(&intent);
                }
                start = &mut self.start, if !started => {
                    started = true;
                    // Else that task has panicked, which ends the node.
                    if let Ok(start) = start {
                        self.node.start_limits(start, self.clock.now());
                    }
                }
                Some((endpoint, outcome)) = self.outcomes.recv() => {
                    self.node.handle_probe(endpoint, outcome, self.clock.now());
                }
                Some(news) = self.lender_news.recv() => self.hear_lender(news),
                _ = raft_ticks.tick() => self.node.handle_raft_status(raft_status(&self.raft), self.clock.now()),
                () = self.proxy.limits_wanted() => self.node.handle_timeout(self.clock.now()),
                () = timer => self.node.handle_timeout(self.clock.now()),
                next = self.inbox.next() => match next {
                    Next::Messages(batch) => batch.into_iter().for_each(|inbound| self.take(inbound)),
                    Next::Question(question) => self.answer(question),
                    Next::End => return,
                },
            }
            self.carry_out();
        }
    }

    fn wake(&self) -> tokio::time::Instant {
        let latest = self.clock.now().mono + LONGEST_SLEEP;
        self.clock.deadline(self.node.poll_timeout().map_or(latest, |at| at.min(latest)))
    }

    fn take(&mut self, inbound: Inbound) {
        match codec::decode::<Message>(&inbound.envelope) {
            Ok(message) => {
                if let Err(refused) = self.node.handle_message(&inbound.from.name, message, self.clock.now()) {
                    debug!(from = %inbound.from.name, %refused, "message refused");
                }
            }
            Err(error) => {
                debug!(from = %inbound.from.name, %error, "message does not decode");
                self.mesh.count_malformed();
            }
        }
    }

    fn answer(&mut self, question: Question) {
        let now = self.clock.now();
        // Each fails when the asker has gone.
        match question {
            Question::Status(answer) => {
                drop(answer.send(self.status.share(now.mono, || self.node.status(now))));
            }
            Question::Counters(counters, answer) => drop(answer.send(self.node.counters(&counters, now))),
        }
    }

    /// Starts and ends lenders with the document, and tells its limits which of them can be counted on: a limit may be
    /// new to a lender, and a lender new under its name.
    fn follow_lenders(&mut self, intent: &Intent) {
        self.lenders.follow(&intent.snapshot, intent.founder);
        self.judge_lenders();
    }

    fn judge_lenders(&mut self) {
        let now = self.clock.now();
        for (lender, reachable) in self.lenders.states() {
            self.node.handle_lender(lender, reachable, now);
        }
    }

    fn hear_lender(&mut self, news: LenderNews) {
        match news {
            LenderNews::Loan(reply) => self.node.handle_loan(reply, self.clock.now()),
            LenderNews::Judged => self.judge_lenders(),
        }
    }

    /// Carries out everything that the node wants done.
    fn carry_out(&mut self) {
        while let Some(event) = self.node.poll_event() {
            self.note(&event);
        }
        while let Some(transmit) = self.node.poll_transmit() {
            match codec::encode(&transmit.message) {
                Ok(envelope) if transmit.class == Class::Datagram => {
                    self.mesh.send_datagram(&transmit.to, envelope.into(), urgency(&transmit.message));
                }
                Ok(envelope) => self.mesh.send_stream(&transmit.to, envelope.into()),
                Err(error) => warn!(to = %transmit.to, %error, "a message of this node does not encode"),
            }
        }
        while let Some(command) = self.node.poll_proposal() {
            let raft = self.raft.clone();
            tokio::spawn(async move {
                match raft.propose(command).await {
                    Ok(applied) => info!(?applied, "proposed by this node"),
                    // What is still due is proposed again.
                    Err(error) => debug!(%error, "a proposal of this node has no outcome"),
                }
            });
        }
        while let Some((lender, request)) = self.node.poll_loan() {
            let refused = request.ended(None);
            if !self.lenders.ask(&lender, request) {
                self.node.handle_loan(refused, self.clock.now());
            }
        }
        while let Some(probe) = self.node.poll_probe() {
            self.prober.start(probe);
        }
        while let Some(write) = self.node.poll_marks() {
            self.marks.write(write);
        }
        if self.node.take_relief() {
            self.proxy.notify_limits();
        }
        if self.node.view_version() != self.view.load().version {
            self.view.store(self.node.view());
        }
    }

    fn note(&self, event: &Event) {
        match event {
            Event::EligibleForElection(eligible) => self.raft.set_eligible(*eligible),
            Event::EndpointHealth { .. } | Event::MemberUp { .. } | Event::MemberDown { .. } => debug!(?event),
            Event::Replaced { by } => {
                error!(%by, "another process has joined under this node's name; this one admits nothing more: stop it");
            }
            Event::Reclaim { limit, region, from } => {
                warn!(event = "reclaim", %limit, %region, %from, "the lease of a region has lapsed: others get its share");
            }
            Event::RegionDown { .. } | Event::PeerStale { .. } | Event::Ready(false) => warn!(?event, "node"),
            Event::RegionUp { .. } | Event::PeerFresh { .. } | Event::Ready(true) => info!(?event, "node"),
            Event::Limits(event) => limit_events::log(event, &self.view.load()),
        }
    }
}

/// Signs of life, of which both cores have their own.
fn urgency(message: &Message) -> Urgency {
    match message {
        Message::Heartbeat(_) | Message::Limits(portolan_limits::Message::Heartbeat(_)) => Urgency::Vital,
        Message::Gossip(_) | Message::Limits(_) => Urgency::Ordinary,
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn raft_status(raft: &Raft) -> RaftStatus {
    let status = raft.status();
    RaftStatus {
        leader: status.leader.map(|(member, _)| member),
        leader_is_live: status.leader_is_live,
        is_leader: status.role == portolan_raft::Role::Leader,
        term: status.term,
        voters: status.voters,
    }
}
