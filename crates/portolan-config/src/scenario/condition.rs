//! What a step can wait for: `leader in eu-west`, `limits degraded in eu-west`, `admitted of orders in eu-west >= 100`.

use std::{fmt, str::FromStr};

use portolan_model::{Name, RegionId};

use super::{Bound, Comparison};

/// Something that comes true at some moment of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A node of this region leads.
    LeaderIn(RegionId),
    /// The limits of some node of this region are degraded.
    DegradedIn(RegionId),
    /// A figure is on this side of a number.
    Figure {
        /// Which.
        figure: Figure,
        /// Under this limit; for figures of limits only.
        limit: Option<Name>,
        /// In this region; otherwise over all.
        region: Option<RegionId>,
        /// The number.
        bound: Bound<u64>,
    },
}

/// Figures that a condition can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Requests sent so far.
    Sent,
    /// Requests forwarded so far.
    Forwarded,
    /// Requests answered 429 so far.
    Limited,
    /// Requests answered 503 so far.
    Unavailable,
    /// Requests not answered so far.
    Unanswered,
    /// Units admitted so far under a limit.
    Admitted,
    /// Units refused so far under a limit.
    Refused,
    /// The newest revision in force.
    Revision,
    /// Changes of the leader so far.
    LeaderChanges,
    /// Nodes that serve.
    NodesReady,
    /// Milliseconds since the oldest word from a peer region.
    ViewAge,
}

impl Figure {
    /// All, with the words they are asked for by.
    pub const ALL: [(&'static str, Self); 11] = [
        ("sent", Self::Sent),
        ("forwarded", Self::Forwarded),
        ("limited", Self::Limited),
        ("unavailable", Self::Unavailable),
        ("unanswered", Self::Unanswered),
        ("admitted", Self::Admitted),
        ("refused", Self::Refused),
        ("revision", Self::Revision),
        ("leader-changes", Self::LeaderChanges),
        ("nodes-ready", Self::NodesReady),
        ("view-age", Self::ViewAge),
    ];

    /// Whether it is counted by limit.
    pub const fn is_of_limit(self) -> bool {
        matches!(self, Self::Admitted | Self::Refused)
    }

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, figure)| *figure == self).map_or("", |(word, _)| word)
    }
}

impl FromStr for Condition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let region = |word: &str| RegionId::new(word).map_err(|_| ());
        match words[..] {
            ["leader", "in", id] => return Ok(Self::LeaderIn(region(id)?)),
            ["limits", "degraded", "in", id] => return Ok(Self::DegradedIn(region(id)?)),
            _ => {}
        }
        let (head, sign, number) = match words[..] {
            [ref head @ .., sign, number] => (head, sign, number),
            _ => return Err(()),
        };
        let comparison = match sign {
            ">=" => Comparison::AtLeast,
            "<=" => Comparison::AtMost,
            _ => return Err(()),
        };
        let bound = Bound { comparison, value: number.parse().map_err(|_| ())? };
        let (word, rest) = head.split_first().ok_or(())?;
        let (_, figure) = *Figure::ALL.iter().find(|(known, _)| known == word).ok_or(())?;
        let (limit, place) = match rest {
            ["of", limit, place @ ..] => (Some(Name::new(limit).map_err(|_| ())?), place),
            place => (None, place),
        };
        let region = match place {
            [] => None,
            ["in", id] => Some(region(id)?),
            _ => return Err(()),
        };
        if limit.is_some() != figure.is_of_limit() {
            return Err(());
        }
        Ok(Self::Figure { figure, limit, region, bound })
    }
}

/// As it is written.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaderIn(region) => write!(f, "leader in {region}"),
            Self::DegradedIn(region) => write!(f, "limits degraded in {region}"),
            Self::Figure { figure, limit, region, bound } => {
                f.write_str(figure.word())?;
                if let Some(limit) = limit {
                    write!(f, " of {limit}")?;
                }
                if let Some(region) = region {
                    write!(f, " in {region}")?;
                }
                write!(f, " {bound}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_reads_as_it_is_written() {
        for text in [
            "leader in eu-west",
            "limits degraded in eu-west",
            "revision >= 3",
            "admitted of orders in eu-west >= 100",
            "view-age in eu-west >= 500",
            "nodes-ready <= 2",
        ] {
            assert_eq!(text.parse::<Condition>().map(|condition| condition.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "leader of eu-west",
            "revision > 3",
            "admitted >= 1",
            "sent of orders >= 1",
            "sent in EU >= 1",
            "rev >= 1",
        ] {
            assert_eq!(text.parse::<Condition>(), Err(()), "{text}");
        }
    }
}
