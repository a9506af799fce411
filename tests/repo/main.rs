//! Rules of this repository that a program can check. Nothing here runs the product.

mod data;
mod dependencies;
mod lenders;
mod purity;
mod sizes;
mod sources;
mod words;
