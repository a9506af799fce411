//! Limits for editors, and the source of `docs/reference/limits.md`.
#![expect(dead_code, reason = "only the schema of these types is used")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::value::{CalendarQuota, Duration, Name, OpenCap, Percentage, Rate, RedisUrl, Status, TimeZone};

/// A bound on requests, held over all regions together. Says how much by one of `rate`, `quota` and `concurrency`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Limit {
    /// What is counted apart: a word, a part such as `{ header: x-device }`, or a list of up to four of them, counted as
    /// a tuple. `client` is the IPv4 address or the IPv6 /64, `tenant` the claim `tenant`, `api_key` the header
    /// `x-api-key`.
    key: LimitKey,
    /// Units per window, for example `600/min`; the window is 1s to 31d, of a token bucket 1ms to 31d.
    rate: Option<Rate>,
    /// Units per civil day or month in place of `rate`, for example `10000/day`.
    quota: Option<CalendarQuota>,
    /// Where the days and months of `quota` begin at midnight. Default UTC.
    time_zone: Option<TimeZone>,
    /// Requests at one time in place of `rate`.
    concurrency: Option<u64>,
    /// How `rate` is counted. `fixed` starts each window from nothing; `sliding` lets what is left of the window before
    /// weigh in; `token_bucket` lets units drip in and pile up to `burst`. Default `fixed`.
    algorithm: Option<Algorithm>,
    /// The most that a token bucket holds, and so the most at one moment. Required for `token_bucket`.
    burst: Option<u64>,
    /// What a region does while it cannot hear all others. `static` keeps to its own share: never over, refuses early.
    /// `open` admits up to the whole limit on each side, `open(1.5)` up to 1.5 times its own shares. `closed` refuses
    /// while anybody is unheard; `closed(minority)` refuses only on sides with at most half of the shares. Default
    /// `static`.
    on_partition: Option<OnPartition>,
    /// How regions split the limit before they lend: `equal`, `demand` (by what they were asked for over time; for up to
    /// 16 limits) or a weight for every region. What a cut-off region may admit is its share. Default `equal`.
    shares: Option<Shares>,
    /// How far regions together may go beyond the limit, so that small limits refuse less early: 0% to 100% for every
    /// region but one. Default 0%.
    overdraft: Option<Percentage>,
    /// How long a request that finds its region's share empty waits for another region's loan, up to 1s. Default 0s:
    /// it is refused at once.
    borrow_wait: Option<Duration>,
    /// After about how long a region that the cluster's leader does not hear loses its share of later windows to the
    /// others, 10s to 1d. It refuses in those. Default: when an operator orders it with `portolan limits fence`.
    reclaim: Option<Duration>,
    /// Who holds four fifths of the limit and lends them out: a name under `lenders`. With another one, or another address
    /// of it, counts start anew. Not with `algorithm: sliding`, token buckets or `concurrency`. Default: the regions lend
    /// to each other.
    lender: Option<Name>,
    /// Units that a request takes: a number, or a header that says it. Default 1.
    cost: Option<Cost>,
    /// Outcomes that give the units back within the window: a status, a class such as `5xx`, or `upstream_failure`.
    /// Default: none.
    refund_on: Option<Vec<RefundOn>>,
    /// Whether the routes that name this limit share one budget (`limit`) or have one each (`route`). Default `limit`.
    per: Option<Budget>,
    /// Other amounts for consumers of named plans; whoever has no plan, or an unknown one, has the limit's own.
    plans: Option<Plans>,
    /// Other amounts for single consumers, by the user, tenant, header or address that `key` counts. They go before
    /// plans.
    overrides: Option<BTreeMap<String, u64>>,
    /// Only count what would be refused, and let it pass. Default false.
    shadow: Option<bool>,
    /// Whether responses name the window that was charged. Default false.
    expose_slot: Option<bool>,
}

/// What a limit counts apart.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum LimitKey {
    One(KeyItem),
    Tuple(#[schemars(length(min = 1, max = 4))] Vec<KeyItem>),
}

/// One part of a key.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum KeyItem {
    Word(KeyWord),
    Part(KeyPart),
}

/// Parts that need nothing more.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum KeyWord {
    Global,
    Service,
    Route,
    User,
    Client,
    Tenant,
    ApiKey,
}

/// Parts that need more than a word: one of these.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct KeyPart {
    /// A header of the request, by its name.
    header: Option<String>,
    /// A claim of the token; the route needs `auth`.
    claim: Option<String>,
    /// The client's address, IPv6 by a prefix of 48, 56, 64 or 128 bits.
    client: Option<u8>,
}

/// How a rate is counted.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Algorithm {
    Fixed,
    Sliding,
    TokenBucket,
}

/// What a region does while it cannot hear all others.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum OnPartition {
    Word(Policy),
    Cap(OpenCap),
}

/// What a region does while it cannot hear all others.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Policy {
    Static,
    Open,
    Closed,
    #[schemars(rename = "closed(any)")]
    ClosedAny,
    #[schemars(rename = "closed(minority)")]
    ClosedMinority,
}

/// How regions split a limit: a word, or a weight for every region.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Shares {
    Word(ShareWord),
    Weights(BTreeMap<String, u32>),
}

/// Splits that need no weights.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum ShareWord {
    Equal,
    Demand,
}

/// Units that a request takes.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Cost {
    Units(#[schemars(range(min = 1, max = 1_000_000))] u32),
    Header(CostFromHeader),
}

/// A cost that a header of the request says.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct CostFromHeader {
    /// The header, by its name.
    header: String,
    /// Units when the header is absent or no number. Default 1.
    default: Option<u32>,
    /// Units taken when the header says more.
    most: u32,
}

/// An outcome that gives units back.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum RefundOn {
    Status(Status),
    Word(RefundWord),
}

/// Outcomes that are no status.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum RefundWord {
    UpstreamFailure,
}

/// What the routes that name a limit share.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Budget {
    Limit,
    Route,
}

/// Other amounts by plan, and where a request says which plan it is of.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Plans {
    /// The claim of the token that names the plan; the routes need `auth`.
    claim: Option<String>,
    /// The header that names the plan, for gateways behind one that sets it.
    header: Option<String>,
    /// Units over the limit's own window, by plan; up to 100 plans.
    quotas: BTreeMap<String, u64>,
}

/// One who holds parts of limits for all regions and lends them out in the background; no request waits for it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Lender {
    /// A Redis, without credentials in the address. Its clock should be right: of a window that begins more than one
    /// window and 10s later by it, it lends nothing, so that clocks far ahead leave nothing there for long.
    redis: RedisUrl,
}
