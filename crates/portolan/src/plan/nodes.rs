//! How many nodes the largest region has, as far as an operator or the region files say. Never asks a fleet that runs.

use portolan_config::RegionMap;
use serde::Serialize;

/// A number of nodes, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// Nodes of the largest region.
    pub most: u32,
    /// Who says so.
    pub told_by: ToldBy,
}

/// Who says how many nodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToldBy {
    /// The command line.
    Operator,
    /// Region files that list several addresses: one for each node.
    Addresses,
    /// Nobody: one is assumed.
    Nobody,
}

impl Nodes {
    /// As asked for, else as the regions say.
    pub fn of(regions: &RegionMap, asked: Option<u16>) -> Self {
        // A node may have an address of either family. One alone may be that of a balancer before any number of nodes.
        let of_region = |region: &portolan_config::Region| {
            let v4 = region.addresses.iter().filter(|address| address.is_ipv4()).count();
            v4.max(region.addresses.len() - v4)
        };
        let listed = regions.iter().map(of_region).max().unwrap_or(1);
        match (asked, u32::try_from(listed).unwrap_or(u32::MAX)) {
            (Some(most), _) => Self { most: most.into(), told_by: ToldBy::Operator },
            (None, most @ 2..) => Self { most, told_by: ToldBy::Addresses },
            (None, _) => Self { most: 1, told_by: ToldBy::Nobody },
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::SourceFile;

    use super::*;

    fn check(addresses: &str, asked: Option<u16>, expected: (u32, ToldBy)) {
        let text = format!(
            "version: 1\nregion: a\ntitle: A\ncoordinates: {{ latitude: 1, longitude: 1 }}\naddresses: [{addresses}]\n"
        );
        let file = SourceFile { path: "a.yaml".to_owned(), text };
        let regions = RegionMap::parse(&[file]).unwrap_or_else(|faults| panic!("{}", faults.render()));
        let Nodes { most, told_by } = Nodes::of(&regions, asked);
        assert_eq!((most, told_by), expected, "{addresses}");
    }

    #[test]
    fn a_region_with_several_addresses_of_a_family_has_as_many_nodes_unless_an_operator_says_otherwise() {
        check("192.0.2.1", None, (1, ToldBy::Nobody));
        check("192.0.2.1, '2001:db8::1'", None, (1, ToldBy::Nobody));
        check("192.0.2.1, 192.0.2.2, '2001:db8::1'", None, (2, ToldBy::Addresses));
        check("192.0.2.1, 192.0.2.2", Some(5), (5, ToldBy::Operator));
        check("192.0.2.1", Some(1), (1, ToldBy::Operator));
    }
}
