//! The servers as fetched: what is pinned, where it lands in the cache, how it is checked.

pub(crate) mod clickhouse;
pub(crate) mod kafka;
