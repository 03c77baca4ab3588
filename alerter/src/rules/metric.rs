//! What a rule measures.

use std::fmt;

use penstock_proto::ReadingView;

/// A measurement of a reading: one of the four that every reading may have, or a key of its `metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MetricName {
    /// Degrees Celsius.
    Temperature,
    /// Relative humidity in %.
    Humidity,
    /// Hectopascal.
    Pressure,
    /// Charge in %.
    BatteryLevel,
    /// A key of `metrics`.
    Named(Box<str>),
}

/// What a metric is called in rules files, if it is a key of `metrics`.
const PREFIX: &str = "metrics.";
/// Bytes of a key at most, as for readings.
const KEY_BYTES_MAX: usize = 64;

impl MetricName {
    pub(crate) const FIXED: [&str; 4] = ["temperature", "humidity", "pressure", "battery_level"];

    /// The metric with this name in rules files, such as `temperature` or `metrics.vibration`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "temperature" => Some(Self::Temperature),
            "humidity" => Some(Self::Humidity),
            "pressure" => Some(Self::Pressure),
            "battery_level" => Some(Self::BatteryLevel),
            _ => {
                let key = text.strip_prefix(PREFIX)?;
                (1..=KEY_BYTES_MAX).contains(&key.len()).then(|| Self::Named(key.into()))
            }
        }
    }

    /// Whether readings carry it in single precision: then limits are compared in single precision, so that a reading of 80.3
    /// equals a limit of 80.3.
    pub(crate) const fn is_single(&self) -> bool {
        matches!(self, Self::Temperature | Self::Humidity | Self::Pressure)
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Temperature => f.write_str("temperature"),
            Self::Humidity => f.write_str("humidity"),
            Self::Pressure => f.write_str("pressure"),
            Self::BatteryLevel => f.write_str("battery_level"),
            Self::Named(key) => write!(f, "{PREFIX}{key}"),
        }
    }
}

/// Writes the values of `metrics` in `view` into `values`; what is absent or not finite is `None`.
pub(crate) fn extract(metrics: &[MetricName], view: &ReadingView<'_>, values: &mut Vec<Option<f64>>) {
    values.clear();
    values.extend(metrics.iter().map(|metric| match metric {
        MetricName::Temperature => view.temperature.map(f64::from),
        MetricName::Humidity => view.humidity.map(f64::from),
        MetricName::Pressure => view.pressure.map(f64::from),
        MetricName::BatteryLevel => view.battery_level.map(f64::from),
        MetricName::Named(_) => None,
    }));
    if view.metrics_len > 0 {
        for (name, value) in view.metrics() {
            for (metric, slot) in metrics.iter().zip(values.iter_mut()) {
                if matches!(metric, MetricName::Named(key) if **key == *name) {
                    *slot = Some(value);
                }
            }
        }
    }
    for slot in values {
        *slot = slot.filter(|value| value.is_finite());
    }
}
