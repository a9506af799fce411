//! Whole clusters in virtual time: real openraft, real redb on disks in memory, a seeded network between them.

mod damage;
mod disk_full;
mod founding;
mod leading;
mod membership;
mod network;
mod partition;
mod regions;
mod slow;
mod speaking;
mod world;
