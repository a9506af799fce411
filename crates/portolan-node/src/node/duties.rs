//! What a node does by itself: heartbeats, facts, watching regions and peers, keeping its view true.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use portolan_config::Change;
use portolan_geodns::{RegionState, RegionStates};
use portolan_model::{NodeName, Now, RegionId, Timestamp, WallTime, codec};
use portolan_routing::Health;

use super::{HEARTBEAT_PERIOD, LastHeartbeat, MAX_QUEUE, Node, STALE_AFTER};
use crate::{
    Class, Event, Heartbeat, Message, NodeFacts, PUBLISH_PERIOD, Sight, Transmit,
    facts::{self, FRESH, Known},
    neighbours::Neighbours,
    presence::{Evidence, Verdict},
    rosters::{Proposed, ROSTER_SILENCE, SPEAKS, Words},
};

impl Node {
    /// Looks at everything that changes by time alone.
    pub(super) fn tick(&mut self, now: Now) {
        let speaks = now.mono >= self.next_heartbeat;
        if speaks {
            self.send_heartbeats(now);
        }
        self.find_stale_peers(speaks && self.heartbeats_sent.is_multiple_of(FAR_EVERY), now.mono);
        if self.weigh_regions(now) {
            self.refresh_view();
        }
        if now.mono >= self.next_publication {
            self.publish(self.own_facts(now), now);
        } else {
            self.publish_if_changed(now);
        }
        self.limits.handle_clocks(self.shown_by_most(now), now);
        self.watch_rosters(now);
        self.tend_splits(now);
        self.tend_leases(now);
    }

    /// What most clocks show, this node's own among those of the nodes that are heard; nothing while none is. Of two that
    /// differ, or two halves, what is behind: to wait costs less than slots that are spent before their time.
    fn shown_by_most(&self, now: Now) -> Option<WallTime> {
        let heard = self.heartbeats.values().filter(|last| now.mono.since(last.received) <= CLOCKS_COUNT);
        let mut shown: Vec<WallTime> = heard.map(|last| last.sent + now.mono.since(last.received)).collect();
        if shown.is_empty() {
            return None;
        }
        shown.push(now.wall);
        let middle = (shown.len() - 1) / 2;
        Some(*shown.select_nth_unstable(middle).1)
    }

    /// As the leader: proposes rosters that follow what the regions' nodes say of each other.
    fn watch_rosters(&mut self, now: Now) {
        if !self.guard.raft().is_some_and(|raft| raft.is_leader) {
            return;
        }
        let speaks = |known: &&Known| now.mono.since(known.received) <= SPEAKS;
        let others = self.known.iter().filter_map(|(node, known)| Some((node, Some(known).filter(speaks)?)));
        let mut words: Words<'_> = others.map(|(node, known)| (node, known.facts.silent.as_slice())).collect();
        let own = self.silent_neighbours(now.mono);
        words.insert(&self.config.name, &own);
        let proposed = self.rosters.propose(&self.intent, &words, now.mono);
        for Proposed { region, expected, present } in proposed {
            self.propose(Change::Roster { region, expected, present }.at(now.wall));
        }
    }

    /// Nodes of the own region that have fallen silent; nobody before this node has listened for long enough.
    fn silent_neighbours(&self, now: Timestamp) -> Vec<NodeName> {
        let silent = |node: &&NodeName| {
            let heard = self.presence.heard(node).unwrap_or_else(|| self.presence.started());
            now.since(heard) > ROSTER_SILENCE
        };
        self.neighbours.own_region().filter(silent).cloned().collect()
    }

    /// Draws the conclusions of an input: takes the parts' events, and renews the view if a part of it changed.
    pub(super) fn settle(&mut self, now: Now) {
        let facts_changed = self.take_gossip_events(now.mono);
        while let Some(event) = self.limits.poll_event() {
            self.emit(Event::Limits(event));
        }
        let ready = self.intent.revision.0 > 0 && self.limits_started && self.limits.limiter().active();
        let ready_changed = ready != self.ready;
        if ready_changed {
            self.ready = ready;
            self.emit(Event::Ready(ready));
            self.publish_if_changed(now);
        }
        let regions_changed = (facts_changed || ready_changed) && self.weigh_regions(now);
        if regions_changed || ready_changed {
            self.refresh_view();
        }
        let eligible = self.guard.is_eligible(now.mono);
        if eligible != self.eligible {
            self.eligible = eligible;
            self.emit(Event::EligibleForElection(eligible));
        }
    }

    /// Takes note that `from` spoke.
    pub(super) fn hear(&mut self, from: &NodeName, now: Timestamp) {
        let first = self.presence.hear(from, now);
        if self.stale.remove(from) || first {
            self.emit(Event::PeerFresh { node: from.clone() });
        }
    }

    pub(super) fn handle_heartbeat(&mut self, from: &NodeName, heartbeat: Heartbeat, now: Now) {
        let stamp = (heartbeat.started, heartbeat.sequence);
        // Heartbeats overtake each other by milliseconds. After a second of nothing newer, an earlier start is that of
        // a process whose clock was set back.
        let overtaken = |last: &LastHeartbeat| {
            (last.started, last.sequence) >= stamp && now.mono.since(last.received) <= STALE_AFTER
        };
        if self.heartbeats.get(from).is_some_and(overtaken) {
            return;
        }
        let offset = i128::from(heartbeat.sent.as_unix_millis()) - i128::from(now.wall.as_unix_millis());
        let last = LastHeartbeat {
            started: heartbeat.started,
            sequence: heartbeat.sequence,
            received: now.mono,
            sent: heartbeat.sent,
            clock_offset_ms: offset.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        };
        self.heartbeats.insert(from.clone(), last);
        self.guard.handle_report(from, heartbeat.leader, now.mono);
    }

    pub(super) fn send_heartbeats(&mut self, now: Now) {
        self.next_heartbeat = now.mono + HEARTBEAT_PERIOD;
        self.reported = self.guard.own_sight();
        self.heartbeats_sent += 1;
        let heartbeat = Heartbeat {
            started: self.started,
            sequence: self.heartbeats_sent,
            sent: now.wall,
            leader: self.reported,
            term: self.guard.raft().map_or(0, |raft| raft.term),
        };
        let voters = self.guard.raft().map_or(&[][..], |raft| &raft.voters);
        let far = self.heartbeats_sent.is_multiple_of(FAR_EVERY);
        for (to, period) in self.neighbours.periods(voters) {
            match period {
                Some(period) if period <= HEARTBEAT_PERIOD || far => {}
                _ => continue,
            }
            if self.outbox.len() >= MAX_QUEUE {
                self.counts.dropped += 1;
                continue;
            }
            let message = Message::Heartbeat(heartbeat);
            self.outbox.push_back(Transmit { to: to.clone(), class: Class::Datagram, message });
        }
    }

    /// Asks about every region and returns whether a state changed.
    pub(super) fn weigh_regions(&mut self, now: Now) -> bool {
        let regions = Arc::clone(&self.config.regions);
        for (region, evidence) in regions.ids().iter().zip(self.evidence(now.mono)) {
            match self.liveness.weigh(region, evidence, now.mono) {
                Some(Verdict::Down) => self.emit(Event::RegionDown { region: region.clone() }),
                Some(Verdict::Up) => self.emit(Event::RegionUp { region: region.clone() }),
                None => {}
            }
        }
        let states: RegionStates = regions.ids().iter().cloned().map(|region| self.state(region)).collect();
        let changed = states != self.states;
        self.states = states;
        changed
    }

    /// What speaks for and against each region. Of the own region only its own nodes are asked: whoever is cut off from
    /// everyone else still serves those who reach it.
    fn evidence(&mut self, now: Timestamp) -> Vec<Evidence> {
        if self.said_of_regions.as_ref().is_none_or(|(_, until)| now > *until) {
            self.said_of_regions = Some(self.what_is_said(now));
        }
        let mut all = self.said_of_regions.as_ref().map(|(all, _)| all.clone()).unwrap_or_default();
        for (evidence, region) in all.iter_mut().zip(self.config.regions.ids()) {
            if *region == self.config.region {
                evidence.add_own(self.ready);
            } else {
                evidence.add_sight(self.presence.sight(region, now));
            }
        }
        all
    }

    /// What the facts of other nodes say of each region, and until when, if none says anything else meanwhile.
    fn what_is_said(&self, now: Timestamp) -> (Vec<Evidence>, Timestamp) {
        let regions = self.config.regions.ids();
        let mut all = vec![Evidence::default(); regions.len()];
        let mut oldest = now;
        let own = regions.binary_search(&self.config.region).ok();
        let readable = |known: &&Known| known.is_fresh(now) && known.facts.region_list == self.region_list;
        for known in self.known.values().filter(readable) {
            oldest = oldest.min(known.received);
            if let Some(theirs) = known.place {
                all[theirs].add_own(known.facts.ready);
            }
            let sights = all.iter_mut().zip(&known.facts.sights).enumerate();
            let of_others = sights.filter(|(at, _)| Some(*at) != own && Some(*at) != known.place);
            of_others.for_each(|(_, (evidence, sight))| evidence.add_sight(*sight));
        }
        (all, oldest + FRESH)
    }

    fn state(&self, region: RegionId) -> (RegionId, RegionState) {
        let state = match (self.intent.drains.contains_key(&region), self.liveness.is_down(&region)) {
            (false, false) => RegionState::Serving,
            (false, true) => RegionState::Down,
            (true, false) => RegionState::Draining,
            (true, true) => RegionState::DrainingDown,
        };
        (region, state)
    }

    /// Whether a neighbour has not been heard for longer than heartbeats take to come. Of a node that is no neighbour the
    /// membership protocol tells: it is silent unless it is among the `members`.
    pub(super) fn is_silent(&self, node: &NodeName, members: &BTreeSet<&NodeName>, now: Timestamp) -> bool {
        let voters = self.guard.raft().map_or(&[][..], |raft| &raft.voters);
        match self.neighbours.period(node, voters) {
            Some(period) => {
                let heard = self.presence.heard(node).unwrap_or_else(|| self.presence.started());
                now.since(heard) > Neighbours::stale_after(period)
            }
            None => !members.contains(node),
        }
    }

    /// Finds neighbours that have fallen silent; of the other nodes, of which the membership protocol tells, only if `all`
    /// are asked about.
    fn find_stale_peers(&mut self, all: bool, now: Timestamp) {
        let members = all.then(|| self.gossip.members());
        let voters = self.guard.raft().map_or(&[][..], |raft| &raft.voters);
        let started = self.presence.started();
        // All peers, in the order of names, in both.
        let peers = self.neighbours.periods(voters).zip(self.presence.all_heard());
        let silent = peers.filter(|((node, period), (_, heard))| match period {
            Some(period) => now.since(heard.unwrap_or(started)) > Neighbours::stale_after(*period),
            None => members.as_ref().is_some_and(|members| !members.contains(*node)),
        });
        let new = silent.map(|((node, _), _)| node).filter(|node| !self.stale.contains(*node));
        let new: Vec<NodeName> = new.cloned().collect();
        for node in new {
            self.stale.insert(node.clone());
            self.emit(Event::PeerStale { node });
        }
    }

    /// Returns whether facts that regions are judged by changed.
    fn take_gossip_events(&mut self, now: Timestamp) -> bool {
        let mut facts_changed = false;
        while let Some(event) = self.gossip.poll_event() {
            match event {
                portolan_gossip::Event::MemberUp(node) => self.emit(Event::MemberUp { node }),
                portolan_gossip::Event::MemberDown(node) => self.emit(Event::MemberDown { node }),
                portolan_gossip::Event::FactChanged { node, key } if key == facts::key() => {
                    // What only time changes is for the next tick.
                    let known = facts::read(self.gossip.facts(), &node, &self.config.regions);
                    let before = self.known.get(&node).filter(|before| before.is_fresh(now));
                    let same = |known: &Known| before.is_some_and(|before| known.facts.judges_as(&before.facts));
                    facts_changed |= !known.as_ref().is_some_and(same);
                    match known {
                        Some(known) => self.known.insert(node, known),
                        None => self.known.remove(&node),
                    };
                    if facts_changed {
                        self.said_of_regions = None;
                    }
                }
                portolan_gossip::Event::FactChanged { .. } => {}
            }
        }
        facts_changed
    }

    fn own_facts(&self, now: Now) -> NodeFacts {
        let sight = |region: &RegionId| {
            if *region == self.config.region {
                Sight::Heard { age: Duration::ZERO }
            } else {
                self.presence.sight(region, now.mono)
            }
        };
        let health = || self.compiled.board.endpoints(now.mono).map(|endpoint| endpoint.health);
        let usable = |health: &Health| matches!(health, Health::Unknown | Health::Healthy);
        NodeFacts {
            region: self.config.region.clone(),
            revision: self.intent.revision,
            ready: self.ready,
            draining: self.intent.drains.contains_key(&self.config.region),
            endpoints_usable: u32::try_from(health().filter(usable).count()).unwrap_or(u32::MAX),
            endpoints: u32::try_from(health().count()).unwrap_or(u32::MAX),
            region_list: self.region_list,
            sights: self.config.regions.ids().iter().map(sight).collect(),
            silent: self.silent_neighbours(now.mono),
            demand: self.splits.demand(),
        }
    }

    /// Publishes at once what others wait for; the rest waits for the next turn.
    pub(super) fn publish_if_changed(&mut self, now: Now) {
        let facts = self.own_facts(now);
        if self.published.as_ref().is_none_or(|published| facts.differs_in_state(published)) {
            self.publish(facts, now);
        }
    }

    fn publish(&mut self, facts: NodeFacts, now: Now) {
        self.next_publication = now.mono + PUBLISH_PERIOD;
        // Only a cluster of very many regions could outgrow the bound of a value: then others judge by silence alone.
        if let Ok(value) = codec::encode(&facts)
            && self.gossip.publish(facts::key(), value, now).is_err()
        {
            self.counts.dropped += 1;
        }
        self.published = Some(facts);
    }
}

/// How long a node's clock counts after its last heartbeat: five of those between nodes that are far.
const CLOCKS_COUNT: Duration = Duration::from_secs(5);

/// One in so many heartbeats also goes to neighbours that are far.
const FAR_EVERY: u64 = 5;
