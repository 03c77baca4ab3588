//! What the fuzz targets call. The codec is taken in by path, not as the gateway crate, because that would build
//! librdkafka with a sanitizer.

#[path = "../../gateway/src/mqtt/mod.rs"]
pub mod mqtt;
pub mod targets;
