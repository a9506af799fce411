//! The simulator from outside: what it promises, and the scenarios that are shipped.

mod loaded;

mod drawn;
mod faults;
mod lender;
mod limits;
mod rehearsal;
mod same;
mod shipped;
