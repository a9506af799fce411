//! Every order in which threads can meet at one entry, tried by loom: no unit is admitted twice, none is lost, and none
//! reaches another slot or key. Run as `CONTRIBUTING.md` says; models use the entry as `spend` does.

use loom::{sync::Arc, thread};
use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::{
    bucket::{Bucket, BucketTime, Level},
    counter::{Allowance, Aux, Counter, Receipt, Start},
    key::Key,
    word::Age,
};

const KEY: Key = Key::from_bits(1);
const NEXT_KEY: Key = Key::from_bits(2);
const LIMIT: LimitId = LimitId(1);
const NOW: BucketTime = BucketTime::civil(WallTime::from_unix_millis(7000));

fn entry(slot: u64, used: u64, aux: Aux) -> Arc<Counter> {
    let counter = Counter::default();
    counter.settle(KEY, LIMIT, Start { slot, used: [used, 0], aux });
    Arc::new(counter)
}

/// One unit of `slot`, up to `initial` or what was published.
fn spend(counter: &Counter, slot: u64, initial: u64) -> Option<Receipt> {
    loop {
        let word = counter.word(slot);
        if word.is_changing_key() || !counter.is_of(KEY) {
            return None;
        }
        let used = match word.age(slot) {
            Age::Same if word.is_sealed() => return None,
            Age::Same => word.amount(),
            Age::Past(_) => 0,
            Age::Ahead => return None,
        };
        let rights = counter.rights(slot).map_or(initial, |published| published.amount.max(initial));
        if used + 1 > rights {
            return None;
        }
        if let Some(receipt) = counter.advance(word, slot, used + 1) {
            return Some(receipt);
        }
    }
}

/// One token of a bucket of one that never fills.
fn drip(counter: &Counter, bucket: &Bucket) -> Option<Receipt> {
    loop {
        let level = counter.level();
        if level == Level::CHANGING_KEY || !counter.is_of(KEY) {
            return None;
        }
        let debt = level.debt(NOW) + bucket.time_of(1);
        if debt > bucket.burst() {
            return None;
        }
        if counter.advance_level(level, Level::new(level.reuse(), NOW, debt)) {
            return Some(Receipt { slot: 7, reuse: level.reuse(), time: bucket.time_of(1) });
        }
    }
}

fn joined<R: 'static>(counter: &Arc<Counter>, act: impl FnOnce(&Counter) -> R + 'static) -> thread::JoinHandle<R> {
    let counter = Arc::clone(counter);
    thread::spawn(move || act(&counter))
}

#[test]
fn spends_of_two_slots_and_the_roll_between_them_admit_the_rights_of_each() {
    loom::model(|| {
        let counter = entry(5, 1, Aux::None);
        let other = joined(&counter, |counter| [7, 8].map(|slot| spend(counter, slot, 1).is_some()));
        let own = [8, 7].map(|slot| spend(&counter, slot, 1).is_some());
        let other = other.join().expect("no panic");
        let (seventh, eighth) = (u64::from(own[1]) + u64::from(other[0]), u64::from(own[0]) + u64::from(other[1]));
        assert_eq!((seventh, eighth, counter.used(7), counter.used(8)), (1, 1, 1, 1));
    });
}

#[test]
fn what_is_withdrawn_is_not_spent_and_what_is_restored_can_be() {
    loom::model(|| {
        let counter = entry(7, 0, Aux::None);
        let other = joined(&counter, |counter| {
            let taken = counter.withdraw(7, 2, 2, 0);
            if taken == 2 {
                counter.restore(7, 1);
                1
            } else {
                taken
            }
        });
        let own = u64::from(spend(&counter, 7, 2).is_some()) + u64::from(spend(&counter, 7, 2).is_some());
        let taken = other.join().expect("no panic");
        assert!(own + taken <= 2);
        assert_eq!(counter.used(7), own + taken);
    });
}

#[test]
fn a_slot_to_come_is_withdrawn_from_and_begun_by_the_same_word() {
    loom::model(|| {
        let counter = entry(7, 0, Aux::None);
        let other = joined(&counter, |counter| counter.withdraw(9, 1, 2, 0));
        let own = (0..2).filter(|_| spend(&counter, 9, 2).is_some()).count() as u64;
        let late = spend(&counter, 7, 1).is_some();
        let taken = other.join().expect("no panic");
        assert!(own + taken <= 2 && counter.used(9) == own + taken);
        assert!(!late || own + taken == 0, "a slot that was begun is not gone back from");
    });
}

#[test]
fn rights_that_are_raised_meanwhile_admit_no_more_than_they_say() {
    loom::model(|| {
        let counter = entry(7, 0, Aux::None);
        let other = joined(&counter, |counter| {
            counter.publish_rights(7, Allowance { amount: 2, pending: None });
            spend(counter, 7, 1).is_some()
        });
        let own = (0..2).filter(|_| spend(&counter, 7, 1).is_some()).count() as u64;
        let admitted = own + u64::from(other.join().expect("no panic"));
        assert!((1..=2).contains(&admitted) && counter.used(7) == admitted);
        assert!(admitted == 2 || spend(&counter, 7, 1).is_some(), "what was published is there in the end");
    });
}

#[test]
fn a_unit_given_back_can_be_spent_once() {
    loom::model(|| {
        let counter = entry(7, 0, Aux::None);
        let receipt = spend(&counter, 7, 1).expect("nobody else spends");
        let other = joined(&counter, move |counter| counter.give_back(receipt, 1));
        let own = (0..2).filter(|_| spend(&counter, 7, 1).is_some()).count() as u64;
        assert!(other.join().expect("no panic"));
        assert!(own <= 1 && counter.used(7) == own);
    });
}

#[test]
fn a_charge_of_the_key_before_never_reaches_the_next() {
    loom::model(|| {
        let counter = entry(7, 0, Aux::None);
        let receipt = spend(&counter, 7, 2).expect("nobody else spends");
        let other = joined(&counter, move |counter| {
            let changed = counter.begin_key_change(counter.words(), counter.level());
            if changed {
                counter.settle(NEXT_KEY, LIMIT, Start { slot: 9, used: [3, 0], aux: Aux::None });
            }
            changed
        });
        let charged = spend(&counter, 9, 2);
        counter.give_back(receipt, 1);
        let changed = other.join().expect("no panic");
        // A charge before the change makes the words differ from those seen, unless they were seen after it.
        let expected = if changed { 3 } else { u64::from(charged.is_some()) };
        assert_eq!(counter.used(9), expected);
        assert_eq!(counter.is_of(NEXT_KEY), changed);
    });
}

#[test]
fn nothing_is_added_to_a_sealed_slot_or_taken_from_it() {
    loom::model(|| {
        let counter = entry(7, 0, Aux::None);
        let receipt = spend(&counter, 7, 3).expect("nobody else spends");
        let other = joined(&counter, |counter| counter.seal(7, 0));
        let late = u64::from(spend(&counter, 7, 3).is_some());
        let undone = u64::from(counter.give_back(receipt, 1));
        let sealed = other.join().expect("no panic");
        assert_eq!(sealed, Some(1 + late - undone));
        assert_eq!(sealed, Some(counter.used(7)));
    });
}

#[test]
fn a_bucket_gives_its_only_token_once_and_never_that_of_the_next_key() {
    loom::model(|| {
        let bucket = Bucket::new(1, std::time::Duration::from_secs(1000), 1);
        let counter = entry(7, 0, Aux::Level(Level::new(0, NOW, 0)));
        let other = joined(&counter, move |counter| drip(counter, &bucket).is_some());
        let changed = counter.begin_key_change(counter.words(), counter.level());
        if changed {
            counter.settle(NEXT_KEY, LIMIT, Start { slot: 7, used: [0; 2], aux: Aux::Level(Level::new(0, NOW, 0)) });
        }
        let own = drip(&counter, &bucket).is_some();
        let other = other.join().expect("no panic");
        assert!(!(own && other), "one token");
        let level = counter.level();
        assert!(!changed || level.debt(NOW) == 0, "the next key's bucket is full");
    });
}
