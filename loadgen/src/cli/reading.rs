//! `penstock loadgen reading`

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, Limits, check_reading};
use prost::Message as _;

use super::key_value;

pub(super) const EXAMPLES: &str = "\
Examples:
  penstock loadgen reading --temperature 21.5 --humidity 40 --sequence 1 > reading.bin

  Publish it with mosquitto_pub:
    mosquitto_pub -h localhost -p 8883 --cafile certs/ca.pem --cert certs/devices/$ID.pem --key certs/devices/$ID.key \\
      -q 1 -t devices/$ID/readings -f reading.bin

  penstock loadgen reading --temperature 21.5 --metric wind_speed_m_s=4.2 --hex";

/// `penstock loadgen reading`
#[derive(Args, Debug)]
pub struct Reading {
    /// Degrees Celsius
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Relative humidity in %
    #[arg(long, allow_negative_numbers = true)]
    humidity: Option<f32>,
    /// Pressure in hPa
    #[arg(long, allow_negative_numbers = true)]
    pressure: Option<f32>,
    /// Charge of the battery in %
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    battery: Option<i32>,
    /// A further measurement; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    metric: Vec<(String, String)>,
    /// Device id to put into the payload; without it the MQTT topic alone names the device
    #[arg(long, value_name = "UUID")]
    device: Option<DeviceId>,
    /// The device's own count
    #[arg(long, default_value_t = 0, value_name = "N")]
    sequence: u64,
    /// Unix time in milliseconds [default: now]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    timestamp: Option<i64>,
    /// Write hexadecimal digits instead of bytes
    #[arg(long)]
    hex: bool,
}

impl Reading {
    fn encode(&self, now_ms: i64) -> anyhow::Result<Vec<u8>> {
        let metric = |(name, value): &(String, String)| {
            let value = value.parse().with_context(|| format!("--metric {name}={value}: not a number"))?;
            Ok((name.clone(), value))
        };
        let reading = SensorReading {
            device_id: self.device.map(|device| device.as_bytes().to_vec()).unwrap_or_default(),
            timestamp: self.timestamp.unwrap_or(now_ms),
            temperature: self.temperature,
            humidity: self.humidity,
            pressure: self.pressure,
            battery_level: self.battery,
            sequence: self.sequence,
            metrics: self.metric.iter().map(metric).collect::<anyhow::Result<_>>()?,
        };
        Ok(reading.encode_to_vec())
    }

    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let now_ms = Timestamp::now().as_millisecond();
        let bytes = self.encode(now_ms)?;
        let device = self.device.unwrap_or(DeviceId::from_bytes([0; 16]));
        // Making one that becomes a dead letter is a fair use of this command, so it is told, not refused.
        if let Err(invalid) = check_reading(&bytes, device, now_ms, &Limits::default()) {
            eprintln!("note: it will become a dead letter: {invalid}");
        }
        let mut out = io::stdout();
        if self.hex {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "{hex}")?;
        } else if out.is_terminal() {
            bail!("a reading is binary: send it to a file with `> reading.bin`, or use --hex");
        } else {
            out.write_all(&bytes)?;
            out.flush()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use penstock_proto::ReadingView;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        reading: Reading,
    }

    fn encode(line: &str) -> anyhow::Result<Vec<u8>> {
        Line::try_parse_from(std::iter::once("reading").chain(line.split(' ')))?
            .reading
            .encode(1_790_000_000_000)
    }

    #[test]
    fn every_field_is_encoded() {
        let id = "0a1b2c3d-0000-4000-8000-0123456789ab";
        let line = format!(
            "--temperature -3.5 --humidity 40 --pressure 1013.25 --battery 88 --metric a=1.5 --device {id} --sequence 7"
        );
        let bytes = encode(&line).unwrap();
        let view = ReadingView::decode(&bytes).unwrap();
        assert_eq!(view.device_id, id.parse::<DeviceId>().unwrap().as_bytes());
        assert_eq!((view.temperature, view.humidity, view.pressure), (Some(-3.5), Some(40.0), Some(1013.25)));
        assert_eq!((view.battery_level, view.sequence, view.timestamp_ms), (Some(88), 7, 1_790_000_000_000));
        assert_eq!(view.metrics().collect::<Vec<_>>(), [("a", 1.5)]);
    }

    #[test]
    fn what_is_not_given_is_left_out() {
        let bytes = encode("--timestamp -5").unwrap();
        let view = ReadingView::decode(&bytes).unwrap();
        assert_eq!(
            (view.timestamp_ms, view.temperature, view.device_id.len(), view.metrics_len),
            (-5, None, 0, 0)
        );
        assert!(encode("--metric a=b").is_err());
    }
}
