//! The fault suite.

pub mod kind;
pub mod plan;
pub mod proxy;
