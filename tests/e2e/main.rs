//! The fleet as its users see it: real processes, real ports, and the binary's own words.

mod accounts;
mod apply;
mod commands;
mod crash;
mod disk;
mod drain;
mod guide;
mod hostile;
mod lender;
mod lending;
mod life;
mod partition;
mod quota;
mod restart;
mod siblings;
mod support;
mod tls;
mod words;
