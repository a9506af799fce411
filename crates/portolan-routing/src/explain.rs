//! Tells why each route won or lost a request: the slow, plain form of the match, one route at a time.
//!
//! Never used to route. It states the rules of precedence a second time, as a comparison of ranks, so that a test can
//! hold the fast table against it.

use std::{cmp::Reverse, fmt};

use portolan_config::{HostMatch, PathMatch, Route};
use portolan_model::Name;

use crate::table::{RequestHead, RouteTable, bare_prefix, takes};

/// Most candidates listed for one request; the nearest misses come first, so the rest is of little use.
pub const MAX_CANDIDATES: usize = 100;

/// One route as seen by one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The route.
    pub route: Name,
    /// Why it does not serve the request; `None` for the one that does.
    pub lost_because: Option<Reason>,
}

/// Why a route does not serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its host does not match.
    Host,
    /// Its path does not match.
    Path,
    /// Its host and path match, its methods do not.
    Method,
    /// It matches, but the host of `winner` is more specific.
    LessSpecificHost {
        /// The route that serves the request.
        winner: Name,
    },
    /// It matches, but the path of `winner` is exact or a longer prefix.
    LessSpecificPath {
        /// The route that serves the request.
        winner: Name,
    },
    /// It takes any method where `winner` names this one.
    LessSpecificMethod {
        /// The route that serves the request.
        winner: Name,
    },
    /// It matches as well as `winner`, whose name sorts first.
    LaterName {
        /// The route that serves the request.
        winner: Name,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("its host does not match"),
            Self::Path => f.write_str("its path does not match"),
            Self::Method => f.write_str("it does not take this method"),
            Self::LessSpecificHost { winner } => write!(f, "the host of `{winner}` is more specific"),
            Self::LessSpecificPath { winner } => write!(f, "the path of `{winner}` is more specific"),
            Self::LessSpecificMethod { winner } => write!(f, "`{winner}` names this method, it takes any"),
            Self::LaterName { winner } => write!(f, "it matches as well as `{winner}`, whose name sorts first"),
        }
    }
}

impl RouteTable {
    /// Lists every route with the reason it lost: the winner, then those it beat, then the nearest misses; at most
    /// [`MAX_CANDIDATES`]. Walks all routes: for people, not for requests.
    pub fn explain(&self, head: &RequestHead<'_>) -> Vec<Candidate> {
        let mut judged: Vec<(Verdict, &Route)> =
            self.routes.iter().map(|route| (judge(route, head), &**route)).collect();
        judged.sort_by(|(a, left), (b, right)| a.cmp(b).then_with(|| left.name.cmp(&right.name)));
        let winner = match judged.first() {
            Some((Verdict::Matches(rank), route)) => Some((rank.clone(), route.name.clone())),
            _ => None,
        };
        judged.truncate(MAX_CANDIDATES);
        let candidate = |(verdict, route): (Verdict, &Route)| {
            let won = winner.as_ref().is_some_and(|(_, name)| *name == route.name);
            let lost_because = (!won).then(|| reason(verdict, winner.as_ref()));
            Candidate { route: route.name.clone(), lost_because }
        };
        judged.into_iter().map(candidate).collect()
    }
}

/// How a route stands to a request; sorts best first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Matches(Rank),
    WrongMethod,
    WrongPath,
    WrongHost,
}

/// Specificity of a match; the smaller, the more specific.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    host: Reverse<usize>,
    path: Reverse<usize>,
    any_method: bool,
}

fn judge(route: &Route, head: &RequestHead<'_>) -> Verdict {
    let Some(host) = host_rank(&route.host, head.host) else { return Verdict::WrongHost };
    let Some(path) = path_rank(&route.path, head.path) else { return Verdict::WrongPath };
    if !takes(route, head.method) {
        return Verdict::WrongMethod;
    }
    Verdict::Matches(Rank { host: Reverse(host), path: Reverse(path), any_method: route.methods.is_empty() })
}

fn host_rank(pattern: &HostMatch, host: &str) -> Option<usize> {
    match pattern {
        HostMatch::Exact(exact) => (exact == host).then_some(usize::MAX),
        HostMatch::Wildcard(suffix) => {
            let label = host.strip_suffix(suffix.as_str())?;
            label.ends_with('.').then_some(suffix.len() + 1)
        }
        HostMatch::Any => Some(0),
    }
}

fn path_rank(pattern: &PathMatch, path: &str) -> Option<usize> {
    if !path.starts_with('/') {
        return None;
    }
    match pattern {
        PathMatch::Exact(exact) => (exact == path).then_some(usize::MAX),
        PathMatch::Prefix(prefix) => {
            let prefix = bare_prefix(prefix);
            let rest = path.strip_prefix(prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
        }
    }
}

fn reason(verdict: Verdict, winner: Option<&(Rank, Name)>) -> Reason {
    let rank = match verdict {
        Verdict::WrongHost => return Reason::Host,
        Verdict::WrongPath => return Reason::Path,
        Verdict::WrongMethod => return Reason::Method,
        Verdict::Matches(rank) => rank,
    };
    let (best, winner) = winner.expect("a route matches, so the best of them won");
    let winner = winner.clone();
    if rank.host != best.host {
        Reason::LessSpecificHost { winner }
    } else if rank.path != best.path {
        Reason::LessSpecificPath { winner }
    } else if rank.any_method != best.any_method {
        Reason::LessSpecificMethod { winner }
    } else {
        Reason::LaterName { winner }
    }
}
