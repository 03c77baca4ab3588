//! What rules would have raised on readings from a file: `penstock rules test`. Reads one file, nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use csv::{ReaderBuilder, StringRecord};
use jiff::Timestamp;
use penstock_proto::v1::{AlertState, DeviceAlert, SensorReading};
use penstock_proto::{DeviceId, Limits, check_reading};
use penstock_service::suggest::closest;
use prost::Message as _;
use serde::Serialize;

use crate::engine::{Engine, Raised, Reading};
use crate::rules::{MetricName, RuleSet, RulesError, severity_name};
use crate::table::columns;
use crate::text::rfc3339;

/// Alerts that are handed out; more are only counted.
pub const ALERTS_MAX: usize = 100_000;

/// An alert that would have been raised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rehearsed {
    /// The line of the reading that caused it.
    pub line: i64,
    /// The episode's id.
    pub id: String,
    /// `firing` or `resolved`.
    pub state: &'static str,
    /// The rule's name.
    pub rule: String,
    /// The device.
    pub device_id: String,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// Of the reading that caused it, RFC 3339.
    pub time: String,
    /// When the episode began, RFC 3339.
    pub onset: String,
    /// The measured value.
    pub value: f64,
    /// The rule's threshold.
    pub threshold: f64,
    /// Readings in the window that met the condition.
    pub reading_count: u32,
    /// Why, where it is not the readings alone.
    pub reason: String,
    /// 0, or which repetition.
    pub repeat: u32,
    /// The text for people.
    pub text: String,
    /// It would go to the topic of low batteries.
    pub low_battery: bool,
}

impl Rehearsed {
    fn of(raised: Raised) -> Self {
        let Raised { low_battery, alert, .. } = raised;
        let (severity, state) = (severity_name(alert.severity()), alert.state());
        let DeviceAlert { id, rule, device_id, onset, time, reading_count, value, threshold, text, .. } =
            alert;
        Self {
            line: alert.source_offset,
            id,
            state: if state == AlertState::Firing { "firing" } else { "resolved" },
            rule,
            device_id,
            severity,
            time: rfc3339(time),
            onset: rfc3339(onset),
            value,
            threshold,
            reading_count,
            reason: alert.reason,
            repeat: alert.repeat,
            text,
            low_battery,
        }
    }
}

/// What a file of readings would have led to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rehearsal {
    /// The alerts in the order in which they would have been raised, at most [`ALERTS_MAX`].
    pub alerts: Vec<Rehearsed>,
    /// Alerts that were left out.
    pub left_out: usize,
    /// Readings in the file.
    pub readings: u64,
    /// Devices with state.
    pub devices: usize,
    /// Firing records without repetitions.
    pub raised: u64,
    /// Resolved records.
    pub resolved: u64,
    /// Repetitions.
    pub repeated: u64,
    /// Episodes under way at the end.
    pub firing: usize,
    /// Rules that passed over a reading because it came too late.
    pub late: u64,
    /// Rules that passed over a reading because it had come before.
    pub duplicates: u64,
    /// Episodes that did not begin because of `flapping`.
    pub suppressed: u64,
}

impl Rehearsal {
    /// Applies `rules` to the readings of a CSV file called `name`, in the order of its lines.
    ///
    /// Time of receipt is the column `received_at`, or else that of the readings; the rehearsal ends with the last one.
    ///
    /// # Errors
    /// Everything that is wrong with the file, with its lines.
    pub fn of(rules: Arc<RuleSet>, name: &str, csv: impl Read) -> Result<Self, RulesError> {
        let mut problems = RulesError::default();
        let mut reader = ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(Lines::of(csv));
        let columns = match reader.headers() {
            Ok(headers) => Columns::of(headers, name, &mut problems),
            Err(error) => {
                problems.push(name, line_of(&error), format!("cannot be read: {error}"));
                return Err(problems);
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut stage = Stage { engine: Engine::new(rules, 0), now_ms: i64::MIN, rehearsal: Self::default() };
        let (mut record, mut out) = (StringRecord::new(), Vec::new());
        loop {
            match reader.read_record(&mut record) {
                Ok(false) => break,
                Ok(true) => {}
                Err(error) => {
                    problems.push(name, line_of(&error), format!("cannot be read: {error}"));
                    break;
                }
            }
            let line = record.position().map_or(0, csv::Position::line);
            if record.iter().all(str::is_empty) {
                continue;
            }
            match columns.row(&record) {
                Ok(row) => stage.apply(&row, i64::try_from(line).unwrap_or(i64::MAX), &mut out),
                Err(message) => problems.push(name, usize::try_from(line).unwrap_or(usize::MAX), message),
            }
        }
        if problems.is_empty() { Ok(stage.finish()) } else { Err(problems) }
    }

    /// Writes the alerts as a table, and the counts, for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.alerts.is_empty() {
            let head =
                ["TIME", "STATE", "RULE", "DEVICE", "SEVERITY", "VALUE", "LINE", "TEXT"].map(str::to_owned);
            let mut rows = vec![head.to_vec()];
            rows.extend(self.alerts.iter().map(row));
            for line in columns(&rows) {
                writeln!(out, "{line}")?;
            }
        }
        if self.left_out > 0 {
            writeln!(out, "... and {} more", self.left_out)?;
        }
        write!(
            out,
            "{}, devices with state: {}; {} raised, {} resolved, {} still firing",
            counted(self.readings, "reading"),
            self.devices,
            self.raised,
            self.resolved,
            self.firing
        )?;
        let counts = [
            (self.repeated, "repeated"),
            (self.suppressed, "suppressed as flapping"),
            (self.late, "passed over as too late"),
            (self.duplicates, "passed over as duplicates"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(out, ", {count} {what}")?;
        }
        writeln!(out)
    }
}

fn counted(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn row(alert: &Rehearsed) -> Vec<String> {
    let state = match alert.repeat {
        0 => alert.state.to_owned(),
        repeat => format!("{} ({repeat})", alert.state),
    };
    let state = if alert.reason.is_empty() { state } else { format!("{state} [{}]", alert.reason) };
    vec![
        alert.time.clone(),
        state,
        alert.rule.clone(),
        alert.device_id.clone(),
        alert.severity.to_owned(),
        crate::text::number(alert.value),
        alert.line.to_string(),
        alert.text.clone(),
    ]
}

fn line_of(error: &csv::Error) -> usize {
    error.position().map_or(0, |position| usize::try_from(position.line()).unwrap_or(usize::MAX))
}

/// Bytes of a line at most.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Lines without comments and carriage returns, and a comma in those that are empty then: the CSV reader passes over empty
/// lines and counts the lines of records only.
struct Lines<R> {
    inner: BufReader<R>,
    line: Vec<u8>,
    at: usize,
}

impl<R: Read> Lines<R> {
    fn of(inner: R) -> Self {
        Self { inner: BufReader::new(inner), line: Vec::new(), at: 0 }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.line.len() {
            self.line.clear();
            self.at = 0;
            if self.inner.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line)? == 0 {
                return Ok(0);
            }
            if self.line.len() as u64 == LINE_BYTES_MAX && !self.line.ends_with(b"\n") {
                return Err(io::Error::other(format!("a line has more than {LINE_BYTES_MAX} bytes")));
            }
            let text = self.line.trim_ascii();
            let len = if text.first() == Some(&b'#') { 0 } else { self.line.trim_ascii_end().len() };
            self.line.truncate(len);
            self.line.extend_from_slice(if len == 0 { b",\n" } else { b"\n" });
        }
        let count = buffer.len().min(self.line.len() - self.at);
        buffer[..count].copy_from_slice(&self.line[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// The engine with the readings' own clock.
struct Stage {
    engine: Engine,
    now_ms: i64,
    rehearsal: Rehearsal,
}

impl Stage {
    fn apply(&mut self, row: &Row, line: i64, out: &mut Vec<Raised>) {
        // It was checked before.
        let Ok(view) = penstock_proto::ReadingView::decode(&row.payload) else { return };
        self.now_ms = self.now_ms.max(row.received_ms);
        self.engine.advance(self.now_ms, out);
        let reading = Reading { device: row.device, offset: line, received_ms: row.received_ms, view: &view };
        self.engine.reading(&reading, out);
        self.rehearsal.readings += 1;
        let room = ALERTS_MAX.saturating_sub(self.rehearsal.alerts.len());
        self.rehearsal.left_out += out.len().saturating_sub(room);
        self.rehearsal.alerts.extend(out.drain(..).take(room).map(Rehearsed::of));
        out.clear();
    }

    fn finish(self) -> Rehearsal {
        let counts = self.engine.counts();
        Rehearsal {
            devices: self.engine.devices(),
            raised: counts.raised,
            resolved: counts.resolved,
            repeated: counts.repeated,
            firing: self.engine.firing(),
            late: counts.late,
            duplicates: counts.duplicates,
            suppressed: counts.suppressed,
            ..self.rehearsal
        }
    }
}

/// A line of the file.
struct Row {
    device: DeviceId,
    received_ms: i64,
    payload: Vec<u8>,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq)]
enum Column {
    Device,
    Timestamp,
    ReceivedAt,
    Sequence,
    Metric(MetricName),
}

/// The columns of a file, by position.
struct Columns(Vec<Column>);

const COLUMNS: [&str; 8] = [
    "device_id",
    "timestamp",
    "received_at",
    "sequence",
    "temperature",
    "humidity",
    "pressure",
    "battery_level",
];

impl Columns {
    fn of(headers: &StringRecord, name: &str, problems: &mut RulesError) -> Self {
        let mut columns = Vec::new();
        for header in headers {
            let column = match header {
                "device_id" => Some(Column::Device),
                "timestamp" => Some(Column::Timestamp),
                "received_at" => Some(Column::ReceivedAt),
                "sequence" => Some(Column::Sequence),
                other => MetricName::parse(other).map(Column::Metric),
            };
            match column {
                Some(column) if columns.contains(&column) => {
                    problems.push(name, 1, format!("the column {header} is there twice; remove one of them"));
                }
                Some(column) => columns.push(column),
                None => {
                    let hint = match closest(header, COLUMNS.into_iter()) {
                        Some(meant) => format!("did you mean {meant}?"),
                        None => format!("columns are {}, and metrics.NAME", COLUMNS.join(", ")),
                    };
                    problems.push(name, 1, format!("unknown column {header:?}; {hint}"));
                }
            }
        }
        for (needed, called) in [(Column::Device, "device_id"), (Column::Timestamp, "timestamp")] {
            if problems.is_empty() && !columns.contains(&needed) {
                problems.push(
                    name,
                    1,
                    format!("needs the column {called}; the first line names the columns"),
                );
            }
        }
        Self(columns)
    }

    fn row(&self, record: &StringRecord) -> Result<Row, String> {
        if record.len() > self.0.len() {
            return Err(format!("has {} fields, but there are {} columns", record.len(), self.0.len()));
        }
        let (mut reading, mut device, mut received_ms) = (SensorReading::default(), None, None);
        let mut has_time = false;
        for (column, text) in self.0.iter().zip(record.iter()).filter(|(_, text)| !text.is_empty()) {
            match column {
                Column::Device => {
                    device = Some(
                        text.parse::<DeviceId>().map_err(|error| format!("device_id {text:?}: {error}"))?,
                    );
                }
                Column::Timestamp => {
                    reading.timestamp = moment("timestamp", text)?;
                    has_time = true;
                }
                Column::ReceivedAt => received_ms = Some(moment("received_at", text)?),
                Column::Sequence => reading.sequence = number("sequence", text, "a whole number")?,
                Column::Metric(MetricName::Temperature) => {
                    reading.temperature = Some(measured("temperature", text)?)
                }
                Column::Metric(MetricName::Humidity) => reading.humidity = Some(measured("humidity", text)?),
                Column::Metric(MetricName::Pressure) => reading.pressure = Some(measured("pressure", text)?),
                Column::Metric(MetricName::BatteryLevel) => {
                    reading.battery_level = Some(number("battery_level", text, "a whole number")?);
                }
                Column::Metric(MetricName::Named(key)) => {
                    reading.metrics.insert(key.to_string(), measured(key, text)?);
                }
            }
        }
        let device = device.ok_or("has no device_id")?;
        if !has_time {
            return Err("has no timestamp".to_owned());
        }
        let received_ms = received_ms.unwrap_or(reading.timestamp);
        let payload = reading.encode_to_vec();
        check_reading(&payload, device, received_ms, &Limits::default())
            .map_err(|invalid| format!("would be refused: {invalid}"))?;
        Ok(Row { device, received_ms, payload })
    }
}

fn moment(column: &str, text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    text.parse::<Timestamp>().map(|time| time.as_millisecond()).map_err(|_| {
        format!("{column} {text:?}: write RFC 3339, such as 2026-01-31T12:00:00Z, or milliseconds since the Unix epoch")
    })
}

fn measured<T: std::str::FromStr>(column: &str, text: &str) -> Result<T, String> {
    number(column, text, "a number")
}

fn number<T: std::str::FromStr>(column: &str, text: &str, asked_for: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{column} {text:?}: write {asked_for}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

    fn rehearse(csv: &str) -> Result<Rehearsal, RulesError> {
        let rules = "[rules.hot]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 80\n
                     [rules.shaky]\nkind = \"threshold\"\nmetric = \"metrics.vib\"\nabove = 1\n
                     [rules.silent]\nkind = \"no-data\"\nfor = \"5m\"\n";
        let rules = RuleSet::parse("rules.toml", rules, std::path::Path::new("")).unwrap();
        Rehearsal::of(Arc::new(rules), "r.csv", csv.as_bytes())
    }

    #[test]
    fn alerts_are_shown_with_time_and_line() {
        let csv = format!(
            "device_id, timestamp, temperature, metrics.vib\n\
             {DEVICE}, 2026-01-31T12:00:00Z, 81.5,\r\n# a comment\n{DEVICE}, 2026-01-31T12:01:00Z, 20, 1.5\r\n\n\
             {DEVICE}, 1769864400000, ,0.5\n"
        );
        let rehearsal = rehearse(&csv).unwrap();
        let told: Vec<_> = rehearsal
            .alerts
            .iter()
            .map(|alert| (alert.line, alert.rule.as_str(), alert.state, &alert.time[11..19]))
            .collect();
        assert_eq!(
            told,
            [
                (2, "hot", "firing", "12:00:00"),
                (4, "hot", "resolved", "12:01:00"),
                (4, "shaky", "firing", "12:01:00"),
                (4, "silent", "firing", "12:06:00"),
                (6, "shaky", "resolved", "13:00:00"),
                (6, "silent", "resolved", "13:00:00"),
            ]
        );
        let mut out = Vec::new();
        rehearsal.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("TIME                      STATE     RULE"), "{text}");
        assert!(
            text.ends_with("3 readings, devices with state: 1; 3 raised, 3 resolved, 0 still firing\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let problems = |csv: &str| rehearse(csv).unwrap_err().to_string();
        assert_eq!(
            problems(&format!(
                "device_id,timestamp,temperature\n{DEVICE},x,1\n,5,1\n{DEVICE},1000,warm\n{DEVICE},1,2,3\n{DEVICE},,2"
            )),
            "r.csv:2: timestamp \"x\": write RFC 3339, such as 2026-01-31T12:00:00Z, or milliseconds since the Unix epoch\n\
             r.csv:3: has no device_id\n\
             r.csv:4: temperature \"warm\": write a number\n\
             r.csv:5: has 4 fields, but there are 3 columns\n\
             r.csv:6: has no timestamp"
        );
        assert!(problems("device,timestamp\n").contains("r.csv:1: unknown column \"device\""));
        assert!(problems("device_id,tmestamp\n").contains("did you mean timestamp?"));
        assert!(problems("device_id\n").contains("needs the column timestamp"));
        assert!(problems("timestamp,timestamp\n").contains("there twice"));
        let refused = format!("device_id,timestamp,battery_level\n{DEVICE},1000,150\n");
        assert!(problems(&refused).contains("r.csv:2: would be refused: "));
    }
}
