//! What the lanes of one run show, as plain values: every renderer draws these and nothing else, so that a chart and its
//! table cannot disagree. Decides how points are put together where a run has more of them than a page has
//! room.

/// All lanes of one run over one time axis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    /// Milliseconds that one step of the axis stands for.
    pub step_ms: u64,
    /// Steps of the axis.
    pub steps: usize,
    /// Times of faults, drawn behind every lane.
    pub bands: Vec<Band>,
    /// Lanes that belong together.
    pub groups: Vec<Group>,
}

/// A time that something was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// Milliseconds from the start.
    pub from_ms: u64,
    /// Milliseconds from the start.
    pub to_ms: u64,
}

/// Lanes under one heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The heading.
    pub title: String,
    /// One sentence that says what is to be seen.
    pub note: String,
    /// Whether a reader sees it at once or has to open it.
    pub open: bool,
    /// Top to bottom.
    pub lanes: Vec<Lane>,
}

/// One picture over the time axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// What it is about: a region, or `all regions`.
    pub title: String,
    /// What the values are, with their unit.
    pub unit: String,
    /// What its top stands for, where it shares a scale with others.
    pub top: Option<u64>,
    /// What is drawn.
    pub drawing: Drawing,
}

/// What a lane draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drawing {
    /// Values over time.
    Curves(Vec<Curve>),
    /// Times at which something held.
    Spans(Vec<Span>),
}

/// Values over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve {
    /// Column of the table, entry of the legend.
    pub name: String,
    /// Its colour and stroke.
    pub tone: Tone,
    /// How it is drawn.
    pub style: Style,
    /// How several steps become one.
    pub fold: Fold,
    /// One per step; `None` where there is nothing to know, as of a node that is down.
    pub values: Vec<Option<u64>>,
}

/// Something that held for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The line it stands on: what it is about.
    pub row: String,
    /// Milliseconds from the start.
    pub from_ms: u64,
    /// Milliseconds from the start; equal to `from_ms` for what has no length.
    pub to_ms: u64,
    /// Its colour.
    pub tone: Tone,
    /// What held.
    pub label: String,
}

/// Colours by meaning; every one also differs in stroke or in place, never in colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The region with this place in the order of names.
    Region(usize),
    /// What a limit or a rule allows.
    Bound,
    /// What went well.
    Good,
    /// A limit was in force: intended.
    Limited,
    /// Degraded, refused without need.
    Degraded,
    /// Broken, unanswered.
    Bad,
    /// An order of an operator.
    Order,
    /// On its way back to normal.
    Healing,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// An area on top of the areas before it.
    Stacked,
    /// A filled area from zero.
    Area,
    /// A line.
    Line,
    /// A dashed line.
    Dashed,
}

/// How several steps become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// The mean, rounded: rates.
    Mean,
    /// The largest: what must not exceed a bound.
    Most,
    /// The last: states.
    Last,
}

impl Fold {
    fn of(self, values: &[Option<u64>]) -> Option<u64> {
        let known: Vec<u64> = values.iter().flatten().copied().collect();
        match self {
            Self::Mean => (known.iter().sum::<u64>() + known.len() as u64 / 2).checked_div(known.len() as u64),
            Self::Most => known.iter().copied().max(),
            Self::Last => known.last().copied(),
        }
    }
}

impl Figure {
    /// The same figure with `by` of its steps in each one.
    pub fn coarsened(mut self, by: usize) -> Self {
        let by = by.max(1);
        self.steps = self.steps.div_ceil(by);
        self.step_ms = self.step_ms.saturating_mul(by as u64);
        for lane in self.groups.iter_mut().flat_map(|group| &mut group.lanes) {
            if let Drawing::Curves(curves) = &mut lane.drawing {
                for curve in curves {
                    curve.values = curve.values.chunks(by).map(|chunk| curve.fold.of(chunk)).collect();
                }
            }
        }
        self
    }

    /// The end of the axis.
    pub const fn end_ms(&self) -> u64 {
        self.steps as u64 * self.step_ms
    }
}

impl Lane {
    /// The value that the top of the lane stands for: a little above the largest of all that is drawn, rounded up to what
    /// reads well.
    pub fn top(&self) -> u64 {
        if let Some(top) = self.top {
            return top;
        }
        let Drawing::Curves(curves) = &self.drawing else { return 0 };
        let steps = curves.iter().map(|curve| curve.values.len()).max().unwrap_or_default();
        let at = |curve: &Curve, step: usize| curve.values.get(step).copied().flatten().unwrap_or_default();
        let stacked = |step| curves.iter().filter(|c| c.style == Style::Stacked).map(|c| at(c, step)).sum::<u64>();
        let single = |step| curves.iter().filter(|c| c.style != Style::Stacked).map(|c| at(c, step)).max();
        let largest = (0..steps).map(|step| stacked(step).max(single(step).unwrap_or_default())).max();
        let largest = largest.unwrap_or_default();
        round_up(largest.saturating_add(largest / 12))
    }
}

/// The next number that is 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten.
fn round_up(value: u64) -> u64 {
    let mut unit = 1_u64;
    while let Some(next) = unit.checked_mul(10).filter(|next| *next <= value) {
        unit = next;
    }
    let tenths = [10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100];
    let fits = tenths.into_iter().find_map(|tenth| {
        let rounded = unit.checked_mul(tenth)?;
        (rounded % 10 == 0 && rounded / 10 >= value).then_some(rounded / 10)
    });
    fits.unwrap_or(value).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_lane_is_a_number_that_reads_well() {
        let check = |value, expected| assert_eq!(round_up(value), expected, "{value}");
        check(0, 1);
        check(1, 1);
        check(3, 3);
        check(7, 8);
        check(11, 12);
        check(61, 80);
        check(119, 120);
        check(121, 150);
        check(5001, 6000);
        check(u64::MAX, u64::MAX);
    }

    #[test]
    fn steps_are_put_together_by_what_they_mean() {
        let check = |fold: Fold, expected: Option<u64>| {
            assert_eq!(fold.of(&[Some(2), Some(9), None, Some(4)]), expected, "{fold:?}");
            assert_eq!(fold.of(&[None, None]), None, "{fold:?}");
        };
        check(Fold::Mean, Some(5));
        check(Fold::Most, Some(9));
        check(Fold::Last, Some(4));
    }
}
