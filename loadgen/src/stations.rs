//! Replays the hourly readings of real weather stations from a CSV file, in the units of the wire contract.
//!
//! One device for each station. The columns and their units are those of `data/README.md`; `NA` is a missing value and
//! is left out. Times are shifted by one amount for the whole file, so that its last reading is now and the distances
//! between readings stay. The sequence number is the row's index within its station, from 0.

use std::collections::BTreeMap;
use std::io::Read;

use jiff::Timestamp;
use penstock_proto::DeviceId;
use penstock_proto::v1::SensorReading;
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

const METRES_PER_SECOND_IN_MPH: f64 = 0.447_04;
const MM_IN_INCH: f64 = 25.4;
const KM_IN_MILE: f64 = 1.609_344;

/// A station file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StationsError {
    /// The file is no CSV file with the columns of `data/README.md`.
    #[error("not a station file: {0}; expected the columns of loadgen/data/README.md")]
    Csv(csv::Error),
    /// There is no row.
    #[error("the station file holds no reading")]
    Empty,
}

impl From<csv::Error> for StationsError {
    fn from(error: csv::Error) -> Self {
        Self::Csv(error)
    }
}

/// A weather station: a device and its readings, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Station {
    /// The name in the column `origin`.
    pub name: String,
    /// UUID v5 of `https://penstock.example/stations/<name>` in the URL namespace.
    pub device: DeviceId,
    /// The readings; their sequence number is their place.
    pub readings: Vec<SensorReading>,
}

/// The device of the station with this name; the same always.
pub fn station_device(name: &str) -> DeviceId {
    let url = format!("https://penstock.example/stations/{name}");
    Uuid::new_v5(&Uuid::NAMESPACE_URL, url.as_bytes()).into()
}

#[derive(Debug, Deserialize)]
struct Row {
    origin: String,
    time_hour: Timestamp,
    #[serde(deserialize_with = "na")]
    temp: Option<f64>,
    #[serde(deserialize_with = "na")]
    dewp: Option<f64>,
    #[serde(deserialize_with = "na")]
    humid: Option<f64>,
    #[serde(deserialize_with = "na")]
    wind_dir: Option<f64>,
    #[serde(deserialize_with = "na")]
    wind_speed: Option<f64>,
    #[serde(deserialize_with = "na")]
    wind_gust: Option<f64>,
    #[serde(deserialize_with = "na")]
    precip: Option<f64>,
    #[serde(deserialize_with = "na")]
    pressure: Option<f64>,
    #[serde(deserialize_with = "na")]
    visib: Option<f64>,
}

fn na<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    match text {
        "NA" | "" => Ok(None),
        _ => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

fn celsius(fahrenheit: f64) -> f64 {
    (fahrenheit - 32.0) * 5.0 / 9.0
}

#[allow(clippy::cast_possible_truncation, reason = "the contract has 32-bit floats")]
fn single(value: f64) -> f32 {
    value as f32
}

impl Row {
    fn metrics(&self) -> BTreeMap<String, f64> {
        let metrics = [
            ("dew_point_c", self.dewp.map(celsius)),
            ("wind_direction_deg", self.wind_dir),
            ("wind_speed_m_s", self.wind_speed.map(|mph| mph * METRES_PER_SECOND_IN_MPH)),
            ("wind_gust_m_s", self.wind_gust.map(|mph| mph * METRES_PER_SECOND_IN_MPH)),
            ("precipitation_mm", self.precip.map(|inches| inches * MM_IN_INCH)),
            ("visibility_km", self.visib.map(|miles| miles * KM_IN_MILE)),
        ];
        metrics.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// Reads a station file; the time of its last reading becomes `last_at_ms` (Unix milliseconds).
///
/// Stations come in the order of their first row; rows of a station are sorted by time.
///
/// # Errors
/// [`StationsError`] with the line.
pub fn read_stations(file: impl Read, last_at_ms: i64) -> Result<Vec<Station>, StationsError> {
    let mut names: Vec<String> = Vec::new();
    let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut last_ms = i64::MIN;
    let mut reader = csv::Reader::from_reader(file);
    let headers = reader.headers()?.clone();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let row: Row = record.deserialize(Some(&headers))?;
        last_ms = last_ms.max(row.time_hour.as_millisecond());
        if !rows.contains_key(&row.origin) {
            names.push(row.origin.clone());
        }
        rows.entry(row.origin.clone()).or_default().push(row);
    }
    if names.is_empty() {
        return Err(StationsError::Empty);
    }
    let shift_ms = last_at_ms - last_ms;
    let station = |name: String| {
        let rows = rows.remove(&name).unwrap_or_default();
        station(name, rows, shift_ms)
    };
    Ok(names.into_iter().map(station).collect())
}

fn station(name: String, mut rows: Vec<Row>, shift_ms: i64) -> Station {
    rows.sort_by_key(|row| row.time_hour);
    let device = station_device(&name);
    let reading = |(sequence, row): (u64, &Row)| SensorReading {
        device_id: device.as_bytes().to_vec(),
        timestamp: row.time_hour.as_millisecond() + shift_ms,
        temperature: row.temp.map(celsius).map(single),
        humidity: row.humid.map(single),
        pressure: row.pressure.map(single),
        battery_level: None,
        sequence,
        metrics: row.metrics(),
    };
    Station { device, readings: (0..).zip(&rows).map(reading).collect(), name }
}

#[cfg(test)]
mod tests {
    use penstock_proto::{Limits, check_reading};
    use prost::Message as _;

    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;

    fn all() -> Vec<Station> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/station-weather-2013.csv");
        read_stations(std::fs::File::open(file).unwrap(), NOW_MS).unwrap()
    }

    #[test]
    fn every_row_of_the_file_becomes_a_valid_reading() {
        let stations = all();
        let counts: Vec<_> = stations.iter().map(|s| (s.name.as_str(), s.readings.len())).collect();
        assert_eq!(counts, [("EWR", 8_703), ("JFK", 8_706), ("LGA", 8_706)]);
        for station in &stations {
            let mut last_ms = 0;
            for (sequence, reading) in (0..).zip(&station.readings) {
                assert_eq!(reading.sequence, sequence);
                assert!(reading.timestamp > last_ms, "an hour of a station stands once");
                last_ms = reading.timestamp;
                check_reading(&reading.encode_to_vec(), station.device, NOW_MS, &Limits::default()).unwrap();
            }
        }
        assert_eq!(stations.iter().filter_map(|s| Some(s.readings.last()?.timestamp)).max(), Some(NOW_MS));
    }

    #[test]
    fn the_missing_values_of_the_file_are_missing() {
        let readings: Vec<_> = all().into_iter().flat_map(|station| station.readings).collect();
        let without =
            |missing: &dyn Fn(&SensorReading) -> bool| readings.iter().filter(|r| missing(r)).count();
        assert_eq!(without(&|r| r.temperature.is_none()), 1);
        assert_eq!(without(&|r| r.humidity.is_none()), 1);
        assert_eq!(without(&|r| r.pressure.is_none()), 2_729);
        let absent =
            ["dew_point_c", "wind_direction_deg", "wind_speed_m_s", "wind_gust_m_s", "precipitation_mm"]
                .map(|name| without(&|r| !r.metrics.contains_key(name)));
        assert_eq!(absent, [1, 460, 4, 20_778, 0]);
        assert_eq!(without(&|r| r.battery_level.is_some()), 0);
    }

    #[test]
    fn rows_are_converted_as_by_hand() {
        let stations = all();
        // EWR,2013-01-01T06:00:00Z,39.02,26.06,59.37,270,10.36,NA,0,1012,10
        let first = &stations[0].readings[0];
        assert!((first.temperature.unwrap() - 3.9).abs() < 1e-5);
        assert_eq!((first.humidity, first.pressure), (Some(59.37), Some(1012.0)));
        let metric = |reading: &SensorReading, name: &str| reading.metrics[name];
        assert!((metric(first, "dew_point_c") - -3.3).abs() < 1e-9);
        assert!((metric(first, "wind_speed_m_s") - 4.631_334_4).abs() < 1e-9);
        assert!((metric(first, "visibility_km") - 16.093_44).abs() < 1e-9);
        assert_eq!((metric(first, "wind_direction_deg"), metric(first, "precipitation_mm")), (270.0, 0.0));
        assert!(!first.metrics.contains_key("wind_gust_m_s"));
        // EWR,2013-01-01T21:00:00Z,37.04,19.94,49.62,300,13.81,20.714039999999997,0,1012.1,10
        let gusty = &stations[0].readings[14];
        assert!((metric(gusty, "wind_gust_m_s") - 9.260_004_441_6).abs() < 1e-9);
        // LGA,2013-12-30T23:00:00Z,28.94,10.94,46.41,320,18.41,NA,0,1020.9,10
        let last = stations[2].readings.last().unwrap();
        assert!((last.temperature.unwrap() - -1.7).abs() < 1e-5);
        assert_eq!(last.timestamp, NOW_MS);
        // The hours between the first and the last row of the file.
        let hours = Timestamp::from_millisecond(last.timestamp - first.timestamp).unwrap().as_second() / 3600;
        assert_eq!(hours, 363 * 24 + 17);
    }

    #[test]
    fn a_station_has_the_same_device_always() {
        let devices: Vec<_> = ["EWR", "JFK", "LGA"].map(|name| station_device(name).to_string()).into();
        assert_eq!(
            devices,
            [
                "ec8da1b2-a4cb-52a1-a18e-fc728c6c1420",
                "6b5c3bb4-4617-58d5-9364-82b133db4e4b",
                "519e41cc-46c6-5bd2-8d76-37c3f6c99899"
            ]
        );
    }

    #[test]
    fn other_files_are_refused() {
        let error = |text: &str| read_stations(text.as_bytes(), 0).unwrap_err().to_string();
        assert!(error("a,b\n1,2\n").contains("missing field"), "{}", error("a,b\n1,2\n"));
        let header = "origin,time_hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib\n";
        assert!(error(header).contains("no reading"));
        let row = "EWR,2013-01-01T06:00:00Z,warm,1,1,1,1,1,1,1,1\n";
        assert!(error(&format!("{header}{row}")).contains("line: 2"));
    }
}
