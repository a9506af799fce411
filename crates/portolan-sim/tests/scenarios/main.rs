//! The simulator from outside: what it promises, and the scenarios that are shipped.

mod loaded;

mod rehearsal;
mod shipped;
