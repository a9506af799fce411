//! May the node that owns a shard under a new epoch begin to spend, and from whose state does it go on? A pure judgement
//! over what the nodes of the region say of their past with the shard.
//!
//! Under one epoch an owner spends only what its standby of that epoch knows. So if one of the two says, knowing the new
//! epoch and bound by it, that it never held the shard under an epoch, nobody spent under that epoch, and nobody will;
//! and if one of the two hands over what it held, that holds everything. A single word of anybody else proves nothing
//! (rights ledger, rule 9.9: one owner of a region's row at a time).

use std::collections::BTreeMap;

use portolan_model::NodeName;

use crate::region::{ranking::Ranking, shards::Shard};

/// What a node that is bound by the new epoch says of its past with one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It spent from the shard or stood by for it, last under this epoch, and hands over what it knows.
    Held(u64),
    /// It never did.
    Never,
    /// It may have, in a process whose memory is lost, last under this epoch: under later ones it never did. [`EVER`]:
    /// under any.
    Unknown(u64),
    /// The same, last under `last`. And under `seat` it had a seat, owner or standby, and every earlier epoch was over then.
    Forgot { last: u64, seat: u64 },
}

/// What follows for the new owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Somebody may still be spending, or know more.
    Wait,
    /// Nobody ever spent.
    Fresh,
    /// Everything that was spent is in this node's hands.
    From(NodeName),
    /// Nobody spends any more and nobody knows what was spent: only slots that begin later can be opened. To be judged
    /// again when another node speaks.
    Lost,
}

/// Judges one shard under `epoch`, given the rankings that are known here, that of the epoch included, all nodes the region
/// may have had, and who has spoken.
pub(crate) fn judge(
    shard: Shard,
    epoch: u64,
    rankings: &BTreeMap<u64, Ranking>,
    members: &[NodeName],
    words: &BTreeMap<NodeName, Word>,
) -> Verdict {
    let held = words.iter().filter_map(|(node, word)| match word {
        Word::Held(at) => Some((*at, node)),
        Word::Never | Word::Unknown(_) | Word::Forgot { .. } => None,
    });
    // The owner's own state is exact where its standby's may run ahead; both are safe.
    let is_owner = |at: &u64, node: &NodeName| rankings.get(at).and_then(|ranking| ranking.owner(shard)) == Some(node);
    let best = held.max_by_key(|(at, node)| (*at, is_owner(at, node)));
    let since = best.map_or(0, |(at, _)| at);
    let spoke = |node: &NodeName, of: u64| match words.get(node) {
        Some(Word::Held(_) | Word::Never) => true,
        Some(Word::Unknown(last) | Word::Forgot { last, .. }) => *last < of,
        None => false,
    };
    let heard = |node: &NodeName, _: u64| words.contains_key(node);
    let owner = rankings.get(&epoch).and_then(|ranking| ranking.owner(shard));
    // An owner that has forgotten may have spent under this very epoch.
    let forgot = owner.is_some_and(|owner| matches!(words.get(owner), Some(Word::Unknown(last)) if *last >= epoch));
    let end = epoch.saturating_add(u64::from(forgot));
    let settled = |since: u64, counts: &dyn Fn(&NodeName, u64) -> bool| {
        let all = || members.iter().all(|node| counts(node, since.saturating_add(1)));
        if since > epoch {
            // What is known here is older than what was spent: nobody is at a later epoch only if nobody says so.
            return all();
        }
        let between = since.saturating_add(1)..end.max(since.saturating_add(1));
        let known = rankings.range(between.clone());
        let unknown = between.end.saturating_sub(between.start) > known.clone().count() as u64;
        let pair = |(of, ranking): (&u64, &Ranking)| {
            [ranking.owner(shard), ranking.standby(shard)].into_iter().flatten().any(|node| counts(node, *of))
        };
        known.into_iter().all(pair) && (!unknown || all())
    };
    // Who forgot says nothing of what was spent, but ends the epoch it had a seat under, being bound by the new one.
    let over = words.values().map(|word| if let Word::Forgot { seat, .. } = word { *seat } else { 0 });
    let over = over.fold(since, u64::max);
    match (settled(since, &spoke), best) {
        (true, Some((_, node))) => Verdict::From(node.clone()),
        (true, None) => Verdict::Fresh,
        (false, _) if settled(over, &heard) => Verdict::Lost,
        (false, _) => Verdict::Wait,
    }
}

/// An epoch that is not known, after all that are.
pub(crate) const EVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use portolan_config::Roster;
    use proptest::prelude::*;

    use super::*;

    /// One for which `a` ranks before `b` and `b` before `c`.
    fn shard() -> Shard {
        let all = Ranking::new(&Roster { epoch: 1, nodes: ["a", "b", "c"].map(node).to_vec() });
        let ranked = |shard: &Shard| {
            all.owner(*shard).is_some_and(|owner| owner.as_str() == "a")
                && all.standby(*shard).is_some_and(|standby| standby.as_str() == "b")
        };
        Shard::all().find(ranked).expect("one in six is ranked so")
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    /// Rankings of epochs 1, 2, ... with these nodes, and a judgement of the first owner of the last of them. Words are
    /// `a` never, `a3` held under epoch 3, `a?` unknown, `a~3` unknown but never after epoch 3, `a?3` forgot, with a seat
    /// under epoch 3, and `a~2?3` the same but never held after epoch 2.
    fn check(epochs: &[&str], words: &[&str], expected: &str) {
        let rankings = rankings(epochs);
        let (epoch, _) = rankings.last_key_value().expect("an epoch");
        let owner = rankings[epoch].owner(shard()).expect("an owner").clone();
        let number = |text: &str| text.parse().expect("an epoch");
        let word = |text: &&str| {
            let (name, rest) = text.split_at(1);
            let word = match rest {
                "" => Word::Never,
                "?" => Word::Unknown(EVER),
                _ => match (rest.trim_start_matches('~').split_once('?'), rest.strip_prefix('~')) {
                    (Some(("", seat)), _) => Word::Forgot { last: number(seat), seat: number(seat) },
                    (Some((last, seat)), _) => Word::Forgot { last: number(last), seat: number(seat) },
                    (None, Some(last)) => Word::Unknown(number(last)),
                    (None, None) => Word::Held(number(rest)),
                },
            };
            (node(name), word)
        };
        let members = ["a", "b", "c"].map(node);
        let words: BTreeMap<NodeName, Word> = words.iter().map(word).collect();
        assert!(words.is_empty() || words.contains_key(&owner) || expected == "Wait", "the owner speaks to itself");
        let verdict = match judge(shard(), *epoch, &rankings, &members, &words) {
            Verdict::From(node) => node.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(verdict, expected, "{epochs:?} {words:?}");
    }

    fn rankings(epochs: &[&str]) -> BTreeMap<u64, Ranking> {
        let ranking = |(epoch, names): (u64, &&str)| {
            let nodes = names.chars().map(|name| node(&name.to_string())).collect();
            (epoch, Ranking::new(&Roster { epoch, nodes }))
        };
        (1..).zip(epochs).map(ranking).collect()
    }

    #[test]
    fn a_standby_goes_on_at_once_from_what_it_knows() {
        check(&["abc", "bc"], &["b1"], "b");
        check(&["abc", "bc"], &[], "Wait");
        // Its copy was never whole: the owner did not spend under this epoch, if there was no epoch before.
        check(&["abc", "bc"], &["b"], "Fresh");
        check(&["abc", "bc"], &["c"], "Wait");
    }

    #[test]
    fn a_node_that_comes_waits_for_the_word_of_owner_or_standby() {
        check(&["bc", "abc"], &["a"], "Wait");
        check(&["bc", "abc"], &["a", "b1"], "b");
        check(&["bc", "abc"], &["a", "c1"], "c");
        check(&["bc", "abc"], &["a", "b1", "c1"], "b");
        check(&["b", "abc"], &["a", "c"], "Wait");
    }

    #[test]
    fn an_epoch_in_between_is_settled_by_one_of_its_pair() {
        check(&["abc", "bc", "c"], &["c"], "Wait");
        check(&["abc", "bc", "c"], &["c", "b1"], "b");
        check(&["abc", "bc", "c"], &["c", "a1"], "a");
        check(&["abc", "bc", "c"], &["c2"], "c");
        check(&["abc", "bc", "abc"], &["a1"], "Wait");
        check(&["abc", "bc", "abc"], &["a1", "c"], "a");
        check(&["abc", "bc", "abc"], &["a1", "b2"], "b");
    }

    #[test]
    fn a_lost_memory_opens_later_slots_only_and_gives_way_to_a_better_word() {
        check(&["abc", "bc"], &["b?"], "Lost");
        // What b's own earlier process may have spent under this epoch, c would know.
        check(&["abc", "bc"], &["b?", "a1"], "Lost");
        check(&["abc", "bc"], &["b?", "a1", "c"], "a");
        check(&["a", "a"], &["a?"], "Lost");
        // Its marks were lost under this very epoch.
        check(&["a"], &["a?"], "Lost");
        check(&["ab"], &["a?"], "Lost");
        check(&["ab"], &["a?", "b1"], "b");
        check(&["ab"], &["a?", "b"], "Fresh");
        check(&["abc", "bc", "c"], &["b?", "c"], "Lost");
        check(&["abc", "bc", "c"], &["c", "c"], "Wait");
    }

    #[test]
    fn a_seat_ends_every_epoch_before_and_says_nothing_of_what_was_spent() {
        let all = ["a", "b", "c"].map(node);
        let judged = |known: &[u64], words: &[(&str, Word)]| {
            let ranking =
                |epoch: &u64| (*epoch, Ranking::new(&Roster { epoch: *epoch, nodes: ["b", "c"].map(node).to_vec() }));
            let words = words.iter().map(|(name, word)| (node(name), *word)).collect();
            judge(shard(), 5, &known.iter().map(ranking).collect(), &all, &words)
        };
        // The node that owned it is dead, its standby has restarted, and nobody knows of the epochs before.
        assert_eq!(judged(&[5], &[("b", Word::Unknown(EVER)), ("c", Word::Never)]), Verdict::Wait);
        assert_eq!(judged(&[5], &[("b", Word::Forgot { last: 4, seat: 4 })]), Verdict::Lost);
        assert_eq!(judged(&[5], &[("b", Word::Forgot { last: 3, seat: 3 })]), Verdict::Wait);
        assert_eq!(judged(&[4, 5], &[("b", Word::Forgot { last: 3, seat: 3 })]), Verdict::Lost);
        // Who knows what was spent is heard, all the same; what is older is not everything.
        assert_eq!(
            judged(&[5], &[("b", Word::Forgot { last: 4, seat: 4 }), ("a", Word::Held(4))]),
            Verdict::From(node("a"))
        );
        assert_eq!(judged(&[5], &[("b", Word::Forgot { last: 4, seat: 4 }), ("a", Word::Held(3))]), Verdict::Lost);
        check(&["abc", "bc"], &["b?1"], "Lost");
        check(&["abc", "bc"], &["b?1", "a1", "c"], "a");
        check(&["abc", "bc", "abc"], &["a1", "b?1"], "a");
        check(&["abc", "bc", "abc"], &["a1", "b?2"], "Lost");
        check(&["ab"], &["a?1", "b"], "Fresh");
    }

    #[test]
    fn who_has_restarted_since_an_epoch_says_that_it_held_nothing_after_it() {
        // `a` and `b` died under the first epoch, and `c`, which had restarted under it, never took their shard over.
        check(&["abc", "c", "ac"], &["a1", "c?"], "Lost");
        check(&["abc", "c", "ac"], &["a1", "c~1"], "a");
        check(&["abc", "c", "ac"], &["a1", "c~2"], "Lost");
        // Its seat went on with the epochs that it followed.
        check(&["abc", "b", "abc"], &["a1", "b~1?3"], "a");
        check(&["abc", "b", "abc"], &["a1", "b~2?3"], "Lost");
        check(&["abc", "c"], &["c~1", "b1"], "b");
        check(&["abc", "c"], &["c~1"], "Wait");
        check(&["a"], &["a~1"], "Lost");
        check(&["ab"], &["a~1", "b~1"], "Lost");
        check(&["abc", "abc"], &["a~1"], "Lost");
    }

    #[test]
    fn a_word_of_an_epoch_that_is_not_known_here_yet_waits_for_every_node_of_the_region() {
        check(&["abc"], &["a2"], "Wait");
        check(&["abc"], &["a2", "b1"], "Wait");
        check(&["abc"], &["a2", "b1", "c?"], "Lost");
        check(&["abc"], &["a2", "b1", "c"], "a");
        check(&["abc"], &["a", "b3", "c2"], "b");
        let alone = [node("a")];
        let words = BTreeMap::from([(node("a"), Word::Held(2))]);
        assert_eq!(judge(shard(), 1, &rankings(&["a"]), &alone, &words), Verdict::From(node("a")));
    }

    #[test]
    fn epochs_that_are_not_known_here_are_settled_by_every_node_of_the_region() {
        let words = |names: &[&str]| names.iter().map(|name| (node(name), Word::Never)).collect();
        let members = ["a", "b", "c"].map(node);
        let judged = |names: &[&str]| judge(shard(), 5, &BTreeMap::new(), &members, &words(names));
        assert_eq!(judged(&["a", "b"]), Verdict::Wait);
        assert_eq!(judged(&["a", "b", "c"]), Verdict::Fresh);
    }

    proptest! {
        /// Plays epochs with takeovers, deaths of memory and silence at random: whoever is let in knows all that was spent.
        #[test]
        fn whoever_is_let_in_knows_everything_that_was_spent(
            steps in prop::collection::vec((1u8..8, prop::collection::vec(any::<bool>(), 3), any::<bool>()), 1..10),
        ) {
            let names = ["a", "b", "c"].map(node);
            let mut rankings = BTreeMap::new();
            let mut held: BTreeMap<NodeName, Option<(u64, u64)>> = names.iter().map(|name| (name.clone(), None)).collect();
            let mut spent = 0;
            for (epoch, (mask, speaks, copies)) in (1u64..).zip(steps) {
                let nodes = (0..3).filter(|at| mask & (1 << at) != 0).map(|at| names[at].clone()).collect();
                let ranking = Ranking::new(&Roster { epoch, nodes });
                let owner = ranking.owner(shard()).expect("not empty").clone();
                let mut words = BTreeMap::new();
                for (name, speaks) in names.iter().zip(speaks) {
                    if speaks || *name == owner {
                        let word = held[name].map_or(Word::Never, |(epoch, _)| Word::Held(epoch));
                        words.insert(name.clone(), word);
                    }
                }
                rankings.insert(epoch, ranking.clone());
                let known = match judge(shard(), epoch, &rankings, &names, &words) {
                    Verdict::From(node) => held[&node].map(|(_, known)| known),
                    Verdict::Fresh => Some(0),
                    Verdict::Wait | Verdict::Lost => None,
                };
                let standby = ranking.standby(shard()).cloned();
                let Some(known) = known else { continue };
                prop_assert_eq!(known, spent, "epoch {}", epoch);
                // Without its standby's copy it spends nothing, and holds nothing under this epoch.
                if standby.is_none() || copies {
                    spent += 1;
                    held.insert(owner, Some((epoch, spent)));
                    if let Some(standby) = standby {
                        held.insert(standby, Some((epoch, spent)));
                    }
                }
            }
        }
    }
}
