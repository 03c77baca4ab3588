//! What each command does.

pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod dev;
pub(crate) mod dlq;
pub(crate) mod migrate;
pub(crate) mod replay;
pub(crate) mod rules;
pub(crate) mod run;
