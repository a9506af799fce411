//! Links between regions: delay, jitter, loss, and directions that carry nothing.

use std::{collections::BTreeSet, time::Duration};

use rand_chacha::{ChaCha8Rng, rand_core::Rng};

/// The round trip of every pair.
pub const RTT: Duration = Duration::from_millis(150);

/// The most that chance adds to one direction.
const JITTER_US: u64 = 10_000;

#[derive(Clone, Debug)]
pub struct Network {
    pub loss: f64,
    /// How often a message comes twice.
    pub repeats: f64,
    cut: BTreeSet<(usize, usize)>,
}

/// One change of the links.
#[derive(Clone, Debug)]
pub enum Link {
    /// No message passes between these regions and the others, either way.
    Split(Vec<usize>),
    /// These regions form a part each; nothing passes between parts.
    Parts(Vec<Vec<usize>>),
    /// Nothing of this region arrives anywhere; it hears everyone.
    Mute(usize),
    /// This region hears nobody; everyone hears it.
    Deaf(usize),
    Heal,
}

impl Network {
    pub fn new(loss: f64, repeats: f64) -> Self {
        Self { loss, repeats, cut: BTreeSet::new() }
    }

    pub fn change(&mut self, link: &Link, regions: usize) {
        let part_of = |parts: &[Vec<usize>], region| parts.iter().position(|part| part.contains(&region));
        let parted = |parts: &[Vec<usize>], from, to| part_of(parts, from) != part_of(parts, to);
        let carries = |from: usize, to: usize| match link {
            Link::Split(part) => !parted(std::slice::from_ref(part), from, to),
            Link::Parts(parts) => !parted(parts, from, to),
            Link::Mute(region) => from != *region,
            Link::Deaf(region) => to != *region,
            Link::Heal => true,
        };
        let pairs = (0..regions).flat_map(|from| (0..regions).map(move |to| (from, to)));
        self.cut = pairs.filter(|&(from, to)| from != to && !carries(from, to)).collect();
    }

    /// Microseconds that each copy of a message takes to arrive.
    pub fn carry(&self, from: usize, to: usize, rng: &mut ChaCha8Rng) -> Vec<u64> {
        let copies = 1 + usize::from(unit(rng) < self.repeats);
        let half = RTT.as_micros() as u64 / 2;
        let mut delays = Vec::new();
        for copy in 0..copies {
            let (lost, jitter) = (unit(rng) < self.loss, rng.next_u64() % (JITTER_US + 1));
            if !lost && !self.cut.contains(&(from, to)) {
                // A copy may overtake whatever is sent in the next moments.
                delays.push(half + jitter * (1 + 30 * copy as u64));
            }
        }
        delays
    }
}

/// A number from 0 up to 1.
pub fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
