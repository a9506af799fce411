//! The files of a regions directory for editors.
#![expect(dead_code, reason = "only the schema of these types is used")]

use std::net::IpAddr;

use schemars::JsonSchema;

use super::value::{Duration, Name, Prefix, Rate, Version};

/// One region of the cluster.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Region {
    /// Version of the format.
    version: Version,
    /// Its name, which is the file's name too.
    region: Name,
    /// For people.
    title: String,
    /// Where it is.
    coordinates: Place,
    /// Addresses that DNS gives to clients, 1 to 16.
    addresses: Vec<IpAddr>,
    /// Requests it is built for.
    capacity: Option<Rate>,
}

/// A place on earth, north and east positive.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Place {
    /// Degrees from -90 to 90.
    latitude: f64,
    /// Degrees from -180 to 180.
    longitude: f64,
}

/// Round trips between all pairs of regions.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct RoundTrips {
    /// Version of the format.
    version: Version,
    /// One entry per pair.
    rtt: Vec<RoundTrip>,
}

/// One round trip.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct RoundTrip {
    /// Two regions.
    between: [Name; 2],
    /// There and back, 1us to 2s.
    rtt: Duration,
}

/// Where clients are, by address.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Networks {
    /// Version of the format.
    version: Version,
    /// The longest prefix wins.
    networks: Vec<Network>,
}

/// One network; it has either a region or a place.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Network {
    /// Addresses.
    prefix: Prefix,
    /// The region that serves it.
    region: Option<Name>,
    /// The place it is at; the nearest region serves it.
    near: Option<Place>,
    /// For people.
    title: Option<String>,
}
