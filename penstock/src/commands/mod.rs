//! What each command does.

pub mod config;
pub mod dev;
pub mod migrate;
pub mod run;
