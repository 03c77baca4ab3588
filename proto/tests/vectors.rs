//! Bytes made by Google's Python protobuf mean the same here, read by prost and read in place.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use penstock_proto::alert_json;
use penstock_proto::v1::{DeviceAlert, ReadingBatch, SensorReading};
use penstock_proto::{ReadingView, wire};
use prost::Message;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn manifest() -> Value {
    serde_json::from_slice(&bytes("vectors.json")).unwrap()
}

/// A JSON number, or one of the strings that stand for what JSON cannot say.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.parse().unwrap()),
        _ => value.as_f64(),
    }
}

fn same(found: Option<f64>, expected: &Value, what: &str) {
    // NaN is not equal to itself; its text is.
    assert_eq!(found.map(|v| v.to_string()), number(expected).map(|v| v.to_string()), "{what}");
}

#[test]
fn readings_of_another_implementation_read_the_same_in_place_and_by_prost() {
    let manifest = manifest();
    let readings = manifest["readings"].as_object().unwrap();
    assert!(readings.len() >= 9, "vectors are missing");
    for (name, expected) in readings {
        let bytes = bytes(&format!("{name}.bin"));
        let view = ReadingView::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let device: String = view.device_id.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(device, expected["device_id"], "{name}");
        assert_eq!(view.timestamp_ms, expected["timestamp"].as_i64().unwrap(), "{name}");
        assert_eq!(view.sequence.to_string(), expected["sequence"], "{name}");
        same(view.temperature.map(f64::from), &expected["temperature"], name);
        same(view.humidity.map(f64::from), &expected["humidity"], name);
        same(view.pressure.map(f64::from), &expected["pressure"], name);
        assert_eq!(view.battery_level.map(i64::from), expected["battery_level"].as_i64(), "{name}");
        let metrics: BTreeMap<_, _> = view.metrics().collect();
        let expected_metrics = expected["metrics"].as_object().unwrap();
        assert_eq!(metrics.len(), expected_metrics.len(), "{name}");
        for (metric, value) in expected_metrics {
            same(metrics.get(metric.as_str()).copied(), value, name);
        }

        let message = SensorReading::decode(&bytes[..]).unwrap();
        assert_eq!(message.device_id, view.device_id, "{name}");
        assert_eq!(message.timestamp, view.timestamp_ms, "{name}");
        assert_eq!(message.temperature.map(f32::to_bits), view.temperature.map(f32::to_bits), "{name}");
        assert_eq!(message.battery_level, view.battery_level, "{name}");
        assert_eq!(message.sequence, view.sequence, "{name}");
        assert_eq!(message.metrics.len(), metrics.len(), "{name}");
    }
}

#[test]
fn what_prost_writes_of_an_old_fleets_reading_is_what_the_fleet_wrote() {
    for name in ["old_fleet.bin", "old_fleet_sparse.bin", "zeroes_are_present.bin"] {
        let bytes = bytes(name);
        assert_eq!(SensorReading::decode(&bytes[..]).unwrap().encode_to_vec(), bytes, "{name}");
    }
}

#[test]
fn a_batch_of_another_implementation_splits_into_its_readings() {
    let manifest = manifest();
    let batch = bytes("batch.bin");
    let parts: Vec<_> = wire::split_batch(&batch).collect::<Result<_, _>>().unwrap();
    let expected: Vec<_> = manifest["batch"]["readings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| bytes(&format!("{}.bin", name.as_str().unwrap())))
        .collect();
    assert_eq!(parts, expected);
    assert_eq!(ReadingBatch::decode(&batch[..]).unwrap().readings.len(), 3);
}

#[test]
fn an_alert_of_another_implementation_decodes() {
    let manifest = manifest();
    let alert = DeviceAlert::decode(&bytes("alert.bin")[..]).unwrap();
    let json = &manifest["alert"]["json"];
    assert_eq!(alert.rule, json["rule"]);
    assert_eq!(alert.severity().as_str_name(), json["severity"]);
    assert_eq!(alert.state().as_str_name(), json["state"]);
    assert_eq!(alert.onset.to_string(), json["onset"]);
    assert_eq!(alert.text, json["text"]);
    assert_eq!(alert.source_offset.to_string(), json["sourceOffset"]);
}

#[test]
fn the_json_of_another_implementation_is_the_alert_of_its_bytes() {
    let manifest = manifest();
    let theirs = &manifest["alert"]["json"];
    let alert = DeviceAlert::decode(&bytes("alert.bin")[..]).unwrap();
    assert_eq!(alert_json::from_json(theirs.to_string().as_bytes()).unwrap(), alert);
    // Ours has the same, and the fields with default values besides.
    let ours: Value = serde_json::from_str(&alert_json::to_json(&alert)).unwrap();
    for (name, value) in theirs.as_object().unwrap() {
        assert_eq!(&ours[name], value, "{name}");
    }
}
