//! Devices that something is wrong with, each in a way that a rule must notice exactly once, and the comparison of what
//! was noticed with what they have acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Table, presets};
use penstock_kafka::{KafkaError, ScanFrom, Scanner};
use penstock_proto::DeviceId;
use penstock_proto::alert_json::from_json;
use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY};
use penstock_proto::v1::{AlertSeverity, AlertState, DeviceAlert, SensorReading};
use serde::Serialize;

use crate::store::KafkaTarget;

/// The first of a device's readings that show what is wrong.
const ONSET: u64 = 5;
/// Readings that show too high a temperature.
const HOT_READINGS: u64 = 8;
const RECORDS_MAX: usize = 1_000;
const TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ailment {
    /// Over 80 degrees Celsius for a while, more than five readings long.
    Overheats,
    /// Its battery falls below 10 %, and then below 5 %.
    Drains,
    /// It stops to publish.
    FallsSilent,
}

impl Ailment {
    const ALL: [Self; 3] = [Self::Overheats, Self::Drains, Self::FallsSilent];

    /// What is wrong with the device at `index` of a fleet in which `each` devices have each ailment.
    pub(crate) fn of(index: usize, each: usize) -> Option<Self> {
        Self::ALL.get(index.checked_div(each)?).copied()
    }

    /// Makes the device's `nth` reading show it. `false` if the device says nothing any more.
    pub(crate) fn afflict(self, nth: u64, reading: &mut SensorReading) -> bool {
        let Some(since) = nth.checked_sub(ONSET) else { return true };
        match self {
            Self::Overheats if since < HOT_READINGS => reading.temperature = Some(91.5),
            Self::Overheats => {}
            Self::Drains => {
                let lost = i32::try_from(since.saturating_mul(2)).unwrap_or(i32::MAX);
                reading.battery_level = Some(14_i32.saturating_sub(lost).max(2));
            }
            Self::FallsSilent => return false,
        }
        true
    }
}

/// An alert that must be raised once for each device of an ailment. Rules are told apart by what they are for, since
/// their names are the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Hot,
    Low,
    Empty,
    Silent,
}

impl Alarm {
    const ALL: [Self; 4] = [Self::Hot, Self::Low, Self::Empty, Self::Silent];

    const fn ailment(self) -> Ailment {
        match self {
            Self::Hot => Ailment::Overheats,
            Self::Low | Self::Empty => Ailment::Drains,
            Self::Silent => Ailment::FallsSilent,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Hot => "overheating",
            Self::Low => "battery low",
            Self::Empty => "battery nearly empty",
            Self::Silent => "silent",
        }
    }

    /// Which alarm the first record of an episode is.
    fn of(alert: &DeviceAlert, low_battery: bool, rules: &AlarmRules) -> Option<Self> {
        if alert.state() != AlertState::Firing || alert.repeat != 0 {
            return None;
        }
        match (low_battery, alert.severity()) {
            (true, AlertSeverity::Critical) => Some(Self::Empty),
            (true, _) => Some(Self::Low),
            (false, _) if alert.rule == rules.hot => Some(Self::Hot),
            (false, _) if alert.rule == rules.silent => Some(Self::Silent),
            (false, _) => None,
        }
    }
}

/// Names of the rules that are to notice ailments.
#[derive(Clone, Debug)]
pub struct AlarmRules {
    /// The one about high temperatures.
    pub hot: String,
    /// The one about silence.
    pub silent: String,
}

/// How often each alarm was raised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AlarmCheck {
    /// By alarm.
    pub alarms: Vec<AlarmCount>,
    /// What is wrong, line by line.
    pub differences: Vec<String>,
}

/// How often one alarm was raised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AlarmCount {
    /// The alarm.
    pub alarm: &'static str,
    /// Devices that it must be raised for.
    pub devices: usize,
    /// Devices that it was raised for once.
    pub once: usize,
    /// Devices that it was raised for several times, or not at all.
    pub wrong: usize,
    /// Healthy devices that it was raised for.
    pub false_alarms: usize,
}

impl AlarmCheck {
    /// Whether each alarm was raised once where it must be, and nowhere else.
    pub fn is_ok(&self) -> bool {
        self.differences.is_empty()
    }

    fn of(ailing: &BTreeMap<DeviceId, Ailment>, raised: &BTreeMap<(Alarm, String), usize>) -> Self {
        let mut check = Self::default();
        for alarm in Alarm::ALL {
            let mut count = AlarmCount { alarm: alarm.name(), ..AlarmCount::default() };
            for device in ailing.iter().filter(|(_, ailment)| **ailment == alarm.ailment()).map(|(id, _)| id)
            {
                count.devices += 1;
                match raised.get(&(alarm, device.to_string())) {
                    Some(1) => count.once += 1,
                    times => {
                        count.wrong += 1;
                        let times = times.copied().unwrap_or(0);
                        check
                            .differences
                            .push(format!("device {device}: {} was raised {times} times", count.alarm));
                    }
                }
            }
            let is_false = |id: &str| {
                DeviceId::parse(id.as_bytes()).ok().and_then(|id| ailing.get(&id)) != Some(&alarm.ailment())
            };
            // Every device falls silent when the run ends.
            for (_, device) in
                raised.keys().filter(|(found, id)| *found == alarm && alarm != Alarm::Silent && is_false(id))
            {
                count.false_alarms += 1;
                check
                    .differences
                    .push(format!("device {device}: {} was raised and nothing is wrong", count.alarm));
            }
            check.alarms.push(count);
        }
        check
    }
}

impl fmt::Display for AlarmCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["alarm", "devices", "raised once", "wrong", "false alarms"]);
        for count in &self.alarms {
            let number = |number: usize| Cell::new(number).set_alignment(CellAlignment::Right);
            table.add_row([
                Cell::new(count.alarm),
                number(count.devices),
                number(count.once),
                number(count.wrong),
                number(count.false_alarms),
            ]);
        }
        self.differences.iter().try_for_each(|difference| writeln!(f, "{difference}"))?;
        write!(f, "{table}")
    }
}

/// Waits until each alarm was raised for the devices that it must be raised for, at most `patience`, and says what is
/// wrong. Blocks.
///
/// # Errors
/// [`KafkaError`] if the alert topics cannot be read.
pub fn check(
    kafka: &KafkaTarget,
    ailing: &BTreeMap<DeviceId, Ailment>,
    rules: &AlarmRules,
    patience: Duration,
) -> Result<AlarmCheck, KafkaError> {
    let began = Instant::now();
    loop {
        let check = AlarmCheck::of(ailing, &raised(kafka, rules)?);
        let missing = check.alarms.iter().any(|count| count.once < count.devices);
        if !missing || began.elapsed() >= patience {
            return Ok(check);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn raised(kafka: &KafkaTarget, rules: &AlarmRules) -> Result<BTreeMap<(Alarm, String), usize>, KafkaError> {
    let mut raised = BTreeMap::new();
    for name in [DEVICE_ALERTS, LOW_BATTERY] {
        let topic = format!("{}{name}", kafka.topic_prefix);
        let mut scanner = Scanner::open(&kafka.settings, &topic, &ScanFrom::Beginning, true)?;
        while let Some(batch) = scanner.next_batch(RECORDS_MAX, TIMEOUT)? {
            for alert in batch.iter().filter_map(|record| from_json(record.payload).ok()) {
                if let Some(alarm) = Alarm::of(&alert, name == LOW_BATTERY, rules) {
                    *raised.entry((alarm, alert.device_id)).or_default() += 1;
                }
            }
        }
    }
    Ok(raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> DeviceId {
        DeviceId::try_from(&[number; 16][..]).unwrap()
    }

    #[test]
    fn the_first_devices_are_ailing_and_nobody_is_without_being_asked() {
        let found: Vec<_> = (0..8).map(|index| Ailment::of(index, 2)).collect();
        let (hot, low, silent) =
            (Some(Ailment::Overheats), Some(Ailment::Drains), Some(Ailment::FallsSilent));
        assert_eq!(found, [hot, hot, low, low, silent, silent, None, None]);
        assert!((0..8).all(|index| Ailment::of(index, 0).is_none()));
    }

    #[test]
    fn ailments_begin_after_a_while() {
        let shown = |ailment: Ailment, nth| {
            let mut reading =
                SensorReading { temperature: Some(20.0), battery_level: Some(80), ..Default::default() };
            ailment.afflict(nth, &mut reading).then_some((reading.temperature, reading.battery_level))
        };
        let healthy = Some((Some(20.0), Some(80)));
        assert!(Ailment::ALL.iter().all(|ailment| shown(*ailment, ONSET - 1) == healthy));
        assert_eq!(shown(Ailment::Overheats, ONSET), Some((Some(91.5), Some(80))));
        assert_eq!(shown(Ailment::Overheats, ONSET + HOT_READINGS), healthy);
        let levels: Vec<_> = (ONSET..ONSET + 8).filter_map(|nth| shown(Ailment::Drains, nth)?.1).collect();
        assert_eq!(levels, [14, 12, 10, 8, 6, 4, 2, 2]);
        assert_eq!(shown(Ailment::FallsSilent, ONSET), None);
    }

    #[test]
    fn alarms_that_are_missing_doubled_or_false_are_differences() {
        let ailing = BTreeMap::from([
            (device(1), Ailment::Overheats),
            (device(2), Ailment::Drains),
            (device(3), Ailment::FallsSilent),
        ]);
        let once = |alarm, number: u8| ((alarm, device(number).to_string()), 1);
        let mut raised = BTreeMap::from([
            once(Alarm::Hot, 1),
            once(Alarm::Low, 2),
            once(Alarm::Empty, 2),
            once(Alarm::Silent, 3),
            once(Alarm::Silent, 9),
        ]);
        let check = AlarmCheck::of(&ailing, &raised);
        assert_eq!(check.differences, Vec::<String>::new());
        raised.insert((Alarm::Low, device(2).to_string()), 2);
        raised.insert((Alarm::Hot, device(9).to_string()), 1);
        raised.remove(&(Alarm::Silent, device(3).to_string()));
        let check = AlarmCheck::of(&ailing, &raised);
        assert_eq!(check.differences.len(), 3, "{check}");
        let numbers: Vec<_> = check
            .alarms
            .iter()
            .map(|count| (count.devices, count.once, count.wrong, count.false_alarms))
            .collect();
        assert_eq!(numbers, [(1, 1, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0), (1, 0, 1, 0)]);
    }
}
