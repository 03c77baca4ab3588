//! The MQTT codec against the standard: a test per normative statement, named by its number (`mqtt5_` MQTT 5,
//! `mqtt311_` MQTT 3.1.1, `mqtt_` both; a statement without a number is named by its section), and against the codec of
//! rumqttc.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests and their helpers")]

mod acks;
mod connect;
mod differential;
mod encode;
mod frame;
mod generate;
mod publish;
mod subscribe;
mod support;
