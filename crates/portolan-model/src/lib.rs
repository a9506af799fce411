//! The words every Portolan crate shares: names, units and clocks.
//!
//! Decides nothing: a type here holds a checked value and converts it. Never reads a clock, a file or the environment.

mod clock;
pub mod codec;
mod hash;
mod name;
mod place;
mod unit;

pub use clock::{Now, Timestamp, WallTime};
pub use hash::{Hash128, HashKey};
pub use name::{MemberId, Name, NameError, NodeName, RegionId, Revision};
pub use place::{Coordinates, CoordinatesError};
pub use unit::{ByteSize, Rate, Ratio, UnitError, parse_duration, render_duration};
