//! From the text of a rules file to rules, or to everything that is wrong with it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use penstock_proto::DeviceId;
use penstock_proto::v1::AlertSeverity;
use penstock_service::suggest::closest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::compile::Flapping;
use super::error::RulesError;
use super::fields::{Fields, Report};
use super::{COUNT_MAX, FLIPS_MAX, Kind, M_MAX, MetricName, Modifiers, RULES_MAX, Rule, Scope, Side, group};
use crate::text::Template;

const KINDS: [&str; 7] =
    ["threshold", "sustained", "low-battery", "for", "n-of-m", "rate-of-change", "no-data"];
const COMMON: [&str; 9] = [
    "kind",
    "metric",
    "devices",
    "device-group",
    "text",
    "keep-firing",
    "flapping",
    "repeat-every",
    "on-late",
];
const SEVERITIES: [&str; 3] = ["info", "warning", "critical"];
const NAME_BYTES_MAX: usize = 128;
/// All keys of any kind.
const ALL: [&str; 18] = [
    "severity",
    "above",
    "below",
    "clear",
    "count",
    "window",
    "warning",
    "critical",
    "hysteresis",
    "for",
    "max-gap",
    "n",
    "m",
    "per",
    "over",
    "on-late",
    "metric",
    "text",
];

fn own_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "threshold" => &["severity", "above", "below", "clear"],
        "sustained" => &["severity", "above", "below", "count", "window"],
        "low-battery" => &["warning", "critical", "hysteresis"],
        "for" => &["severity", "above", "below", "for", "max-gap"],
        "n-of-m" => &["severity", "above", "below", "n", "m"],
        "rate-of-change" => &["severity", "above", "below", "per", "over"],
        _ => &["severity", "for"],
    }
}

/// The rules in the order of the file.
pub(super) fn rules(name: &str, text: &str, dir: &Path) -> Result<Vec<Rule>, RulesError> {
    let mut report = Report::new(name, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        syntax(&mut report, &errors, text);
        return Err(report.problems);
    }
    let mut read = Vec::new();
    let mut groups = Groups { dir, read: HashMap::new() };
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("rules", DeValue::Table(rules)) => each_rule(rules, &mut report, &mut groups, &mut read),
            ("rules", _) => {
                report.push(key.span().start, "rules: write a table a rule, [rules.NAME]".to_owned())
            }
            (other, _) => {
                let hint =
                    closest(other, ["rules"].into_iter()).map(|meant| format!("; did you mean {meant}?"));
                let hint = hint.unwrap_or_else(|| "; write a table a rule, [rules.NAME]".to_owned());
                report.push(key.span().start, format!("{other}: unknown key{hint}"));
            }
        }
    }
    if read.is_empty() && report.problems.is_empty() {
        report.push(0, "has no rules; write a table a rule, [rules.NAME]".to_owned());
    }
    if report.problems.is_empty() {
        read.sort_by_key(Rule::line);
        Ok(read)
    } else {
        report.problems.sort();
        Err(report.problems)
    }
}

/// What a broken file says cannot be relied on: its syntax only, and of errors that follow from each other the first.
fn syntax(report: &mut Report<'_>, errors: &[toml::de::Error], text: &str) {
    const DUPLICATE: &str = "duplicate key";
    let place = |error: &toml::de::Error| error.span().unwrap_or(text.len()..text.len());
    let mut errors: Vec<_> = errors.iter().map(|error| (place(error), error.message())).collect();
    errors.sort_by_key(|(at, _)| at.start);
    errors.dedup_by_key(|(at, _)| report.line(at.start));
    // In a table that is there twice every key is.
    errors.dedup_by(|(at, message), (before, first)| {
        let is_within = !text.get(before.start..at.start).unwrap_or_default().contains("\n[");
        *message == DUPLICATE && *first == DUPLICATE && is_within
    });
    for (at, message) in errors {
        let message = match (message, text.get(at.clone())) {
            (DUPLICATE, Some(key)) => {
                format!("{key} is there before; give it another name, or remove one of them")
            }
            _ => message.to_owned(),
        };
        report.push(at.start, message);
    }
}

fn each_rule<'a>(
    table: &'a DeTable<'a>,
    report: &mut Report<'_>,
    groups: &mut Groups<'_>,
    read: &mut Vec<Rule>,
) {
    if table.len() > RULES_MAX {
        report.push(0, format!("has {} rules; at most {RULES_MAX} are possible", table.len()));
        return;
    }
    for (name, value) in table {
        read.extend(rule(name, value, report, groups));
    }
}

fn rule<'a>(
    name: &'a Spanned<std::borrow::Cow<'a, str>>,
    value: &'a Spanned<DeValue<'a>>,
    report: &mut Report<'_>,
    groups: &mut Groups<'_>,
) -> Option<Rule> {
    let at = name.span().start;
    let line = report.line(at);
    let name = name.get_ref().as_ref();
    let DeValue::Table(table) = value.get_ref() else {
        report.push(
            at,
            format!("rules.{name}: is no table; write [rules.{name}] and the rule's keys below it"),
        );
        return None;
    };
    let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    let mut fields = Fields::new(format!("rules.{shown}"), at, table, report);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        fields.wrong_table("names of rules are 1 to 128 letters, digits, _, - or .");
    }
    let kind_name =
        fields.required("kind", &format!("one of {}", KINDS.join(", ")), |f, key| f.choice(key, &KINDS))?;
    fields.refuse_others(&COMMON, own_keys(kind_name), &ALL, &format!("kind {kind_name}"));
    let metric = metric(&mut fields, kind_name);
    let kind = kind(&mut fields, kind_name);
    let severity = match fields.choice("severity", &SEVERITIES) {
        Some("info") => AlertSeverity::Info,
        Some("critical") => AlertSeverity::Critical,
        _ => AlertSeverity::Warning,
    };
    let modifiers = modifiers(&mut fields, kind_name);
    let scope = scope(&mut fields, groups);
    let text = text(&mut fields, kind_name);
    if fields.failed() {
        return None;
    }
    Some(Rule {
        name: name.into(),
        line,
        kind: kind?,
        metric: metric?,
        scope: scope?,
        severity,
        text: text?,
        modifiers,
    })
}

/// `Some(None)`: any reading.
fn metric(fields: &mut Fields<'_, '_, '_>, kind: &str) -> Option<Option<MetricName>> {
    let asked_for = "temperature, humidity, pressure, battery_level, or metrics.NAME for a key of metrics";
    if !fields.has("metric") {
        return match kind {
            "low-battery" => Some(Some(MetricName::BatteryLevel)),
            "no-data" => Some(None),
            _ => {
                fields.wrong_table(&format!("needs the key metric: {asked_for}"));
                None
            }
        };
    }
    let text = fields.text("metric", asked_for)?;
    if let Some(metric) = MetricName::parse(text) {
        return Some(Some(metric));
    }
    let meant = closest(text, MetricName::FIXED.into_iter());
    let hint = match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("must be {asked_for}"),
    };
    fields.wrong("metric", &format!("found {text:?}; {hint}"));
    None
}

/// The side and the limit, of which there is exactly one.
fn limit(fields: &mut Fields<'_, '_, '_>) -> Option<(Side, f64)> {
    match (fields.has("above"), fields.has("below")) {
        (true, false) => Some((Side::Above, fields.number("above")?)),
        (false, true) => Some((Side::Below, fields.number("below")?)),
        (true, true) => {
            fields.wrong(
                "below",
                "stands beside above; keep one of them, and write a second rule for the other",
            );
            None
        }
        (false, false) => {
            fields.wrong_table("needs one of the keys above and below: the limit");
            None
        }
    }
}

fn kind(fields: &mut Fields<'_, '_, '_>, name: &str) -> Option<Kind> {
    match name {
        "threshold" => threshold(fields),
        "sustained" => {
            let limit = limit(fields);
            let count =
                fields.required("count", "how many readings, such as 5", |f, key| f.count(key, 1, COUNT_MAX));
            let window_ms = fields.required("window", "within which time, such as \"5m\"", Fields::duration);
            let (side, limit) = limit?;
            Some(Kind::Sustained { side, limit, count: count?, window_ms: window_ms? })
        }
        "low-battery" => low_battery(fields),
        "for" => {
            let limit = limit(fields);
            let hold_ms =
                fields.required("for", "how long the condition holds, such as \"10m\"", Fields::duration);
            let gap_ms = fields.duration("max-gap");
            let ((side, limit), hold_ms) = (limit?, hold_ms?);
            // Two readings that far apart say nothing about what was between them.
            let gap_ms = gap_ms.unwrap_or_else(|| (hold_ms / 2).max(1));
            Some(Kind::For { side, limit, hold_ms, gap_ms })
        }
        "n-of-m" => {
            let limit = limit(fields);
            let n = fields.required("n", "how many of the last m readings", |f, key| f.count(key, 1, M_MAX));
            let m = fields.required("m", "how many readings are looked at", |f, key| f.count(key, 1, M_MAX));
            let ((side, limit), n, m) = (limit?, n?, m?);
            if n > m {
                fields.wrong("n", &format!("is {n} of {m}, which no readings can meet; write at most m"));
            }
            Some(Kind::NOfM { side, limit, n, m })
        }
        "rate-of-change" => {
            let limit = limit(fields);
            let per_ms = fields.required("per", "the limit's unit of time, such as \"1m\"", Fields::duration);
            let over_ms = fields.required(
                "over",
                "the time over which change is measured, such as \"5m\"",
                Fields::duration,
            );
            let (side, limit) = limit?;
            Some(Kind::Rate { side, limit, per_ms: per_ms?, over_ms: over_ms? })
        }
        _ => {
            let silence_ms =
                fields.required("for", "how long a device is silent, such as \"15m\"", Fields::duration);
            Some(Kind::NoData { silence_ms: silence_ms? })
        }
    }
}

fn threshold(fields: &mut Fields<'_, '_, '_>) -> Option<Kind> {
    let limit = limit(fields);
    let clear = fields.number("clear");
    let (side, limit) = limit?;
    let clear = clear.unwrap_or(limit);
    if side.is_met(clear, limit) {
        let (where_to, word) = match side {
            Side::Above => ("at or below", "above"),
            Side::Below => ("at or above", "below"),
        };
        fields.wrong(
            "clear",
            &format!("is {clear}, on the wrong side of {word} = {limit}; write a value {where_to} it"),
        );
    }
    Some(Kind::Threshold { side, limit, clear })
}

fn low_battery(fields: &mut Fields<'_, '_, '_>) -> Option<Kind> {
    let neither = !fields.has("warning") && !fields.has("critical");
    let (warning, critical) = match neither {
        true => (Some(10.0), Some(5.0)),
        false => (fields.number("warning"), fields.number("critical")),
    };
    let hysteresis = fields.number("hysteresis").unwrap_or(0.0);
    if hysteresis < 0.0 {
        fields.wrong(
            "hysteresis",
            "is negative; write 0 or more: how far above its level the battery is full again",
        );
    }
    if let (Some(warning), Some(critical)) = (warning, critical)
        && critical >= warning
    {
        fields
            .wrong("critical", &format!("is {critical}, not below warning = {warning}; write a lower level"));
    }
    Some(Kind::LowBattery { warning, critical, hysteresis })
}

fn modifiers(fields: &mut Fields<'_, '_, '_>, kind: &str) -> Modifiers {
    let keep_ms = fields.duration("keep-firing").unwrap_or(0);
    let repeat_ms = fields.duration("repeat-every");
    let example = "a table, such as { flips = 4, window = \"10m\" }";
    let flapping = fields.table("flapping", example, |table| {
        table.refuse_others(&[], &["flips", "window"], &[], "flapping");
        let flips =
            table.required("flips", "how many changes are normal", |f, key| f.count(key, 1, FLIPS_MAX));
        let window_ms = table.required("window", "within which time, such as \"10m\"", Fields::duration);
        Some(Flapping { flips: flips?, window_ms: window_ms? })
    });
    let late = fields.table("on-late", "a table, such as { allow = \"1m\" }", |table| {
        table.refuse_others(&[], &["allow"], &[], "on-late");
        table.required("allow", "how late a reading may be, such as \"1m\"", Fields::duration)
    });
    if kind == "no-data" && fields.has("on-late") {
        fields.wrong("on-late", "has no meaning for no-data, which goes by time of receipt; leave it out");
    }
    Modifiers { keep_ms, flapping: flapping.flatten(), repeat_ms, late_ms: late.flatten().unwrap_or(0) }
}

fn scope(fields: &mut Fields<'_, '_, '_>, groups: &mut Groups<'_>) -> Option<Scope> {
    if fields.has("devices") && fields.has("device-group") {
        fields.wrong("device-group", "stands beside devices; keep one of them");
        return None;
    }
    if fields.has("devices") {
        let asked_for = "a list of device ids, such as [\"0a1b2c3d-0000-4000-8000-0123456789ab\"]";
        let texts = fields.texts("devices", asked_for)?;
        if texts.is_empty() {
            fields.wrong("devices", "is empty; name devices, or leave the key out for all devices");
        }
        let mut devices = HashSet::new();
        for (at, text) in texts {
            match text.parse::<DeviceId>() {
                Ok(device) => drop(devices.insert(device)),
                Err(error) => fields.wrong_item(at, "devices", &format!("found {text:?}: {error}")),
            }
        }
        return Some(Scope::Devices(Arc::new(devices)));
    }
    if !fields.has("device-group") {
        return Some(Scope::All);
    }
    let file = fields.text("device-group", "the name of a file with one device id a line")?;
    let devices = groups.devices(file, fields)?;
    Some(Scope::Group(file.into(), devices))
}

/// Device groups that were read, each once. `None`: it could not be used, which has been said.
struct Groups<'d> {
    dir: &'d Path,
    read: HashMap<String, Option<Arc<HashSet<DeviceId>>>>,
}

impl Groups<'_> {
    fn devices(&mut self, file: &str, fields: &mut Fields<'_, '_, '_>) -> Option<Arc<HashSet<DeviceId>>> {
        if let Some(known) = self.read.get(file) {
            if known.is_none() {
                fields.fail();
            }
            return known.clone();
        }
        let path = self.dir.join(file);
        let devices = match group::read_limited(&path, group::FILE_BYTES_MAX) {
            Ok(bytes) => {
                let before = fields.problems().len();
                let devices = group::parse(&path.display().to_string(), &bytes, fields.problems());
                (fields.problems().len() == before).then(|| Arc::new(devices))
            }
            Err(why) => {
                let message = format!("{} cannot be read ({why}); name a readable file", path.display());
                fields.wrong("device-group", &message);
                None
            }
        };
        if devices.is_none() {
            fields.fail();
        }
        self.read.insert(file.to_owned(), devices.clone());
        devices
    }
}

fn text(fields: &mut Fields<'_, '_, '_>, kind: &str) -> Option<Template> {
    let default = match kind {
        "sustained" => "{rule} on {device_id}: {metric} {value}, {count} readings beyond {threshold}",
        "low-battery" => "{rule} on {device_id}: battery at {value} ({severity} below {threshold})",
        "rate-of-change" => "{rule} on {device_id}: {metric} changes by {value} (limit {threshold})",
        "no-data" => "{rule} on {device_id}: silent for {value} s",
        _ => "{rule} on {device_id}: {metric} {value} (limit {threshold})",
    };
    let text = fields.text("text", "a text in quotes").unwrap_or(default);
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(message) => {
            fields.wrong("text", &message);
            None
        }
    }
}
