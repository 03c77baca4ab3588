//! A reading as a device would send it.

use std::time::{SystemTime, UNIX_EPOCH};

use penstock_proto::v1::SensorReading;

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

/// A valid reading of now.
pub fn reading(sequence: u64) -> SensorReading {
    SensorReading { timestamp: now_ms(), sequence, temperature: Some(20.0), ..Default::default() }
}
