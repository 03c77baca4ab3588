//! Text templates: what an alert says to people. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use penstock_service::suggest::closest;

/// Bytes of a template at most.
pub(crate) const BYTES_MAX: usize = 2048;

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    DeviceId,
    Rule,
    Severity,
    State,
    Metric,
    Value,
    Threshold,
    Count,
    Onset,
    Time,
    WindowStart,
    WindowEnd,
}

pub(crate) const FIELDS: [(&str, Field); 12] = [
    ("device_id", Field::DeviceId),
    ("rule", Field::Rule),
    ("severity", Field::Severity),
    ("state", Field::State),
    ("metric", Field::Metric),
    ("value", Field::Value),
    ("threshold", Field::Threshold),
    ("count", Field::Count),
    ("onset", Field::Onset),
    ("time", Field::Time),
    ("window_start", Field::WindowStart),
    ("window_end", Field::WindowEnd),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Field(Field),
}

/// A text with placeholders such as `{value}`; `{{` and `}}` stand for braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

/// What to fill in.
pub(crate) struct Values<'a> {
    pub(crate) device_id: &'a str,
    pub(crate) rule: &'a str,
    pub(crate) severity: &'a str,
    pub(crate) state: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) value: f64,
    pub(crate) threshold: f64,
    pub(crate) count: u32,
    pub(crate) onset_ms: i64,
    pub(crate) time_ms: i64,
    pub(crate) window_ms: (i64, i64),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it and what would be right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("has {} bytes; write at most {BYTES_MAX}", text.len()));
        }
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = behind;
                continue;
            }
            if brace == "}" {
                return Err("has a } without a {; write }} for a brace".to_owned());
            }
            let end = rest.find('}').ok_or("has a { without a }; write {{ for a brace")?;
            let field = field(&rest[..end])?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            parts.push(Part::Field(field));
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Ok(Self(parts))
    }

    pub(crate) fn render(&self, values: &Values<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            // A String takes everything.
            let _ = match part {
                Part::Text(plain) => text.write_str(plain),
                Part::Field(field) => write_field(&mut text, *field, values),
            };
        }
        text
    }
}

fn write_field(text: &mut String, field: Field, values: &Values<'_>) -> std::fmt::Result {
    match field {
        Field::DeviceId => text.write_str(values.device_id),
        Field::Rule => text.write_str(values.rule),
        Field::Severity => text.write_str(values.severity),
        Field::State => text.write_str(values.state),
        Field::Metric => text.write_str(values.metric),
        Field::Value => text.write_str(&number(values.value)),
        Field::Threshold => text.write_str(&number(values.threshold)),
        Field::Count => write!(text, "{}", values.count),
        Field::Onset => text.write_str(&rfc3339(values.onset_ms)),
        Field::Time => text.write_str(&rfc3339(values.time_ms)),
        Field::WindowStart => text.write_str(&rfc3339(values.window_ms.0)),
        Field::WindowEnd => text.write_str(&rfc3339(values.window_ms.1)),
    }
}

fn field(name: &str) -> Result<Field, String> {
    if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(*field);
    }
    let shown: String = name.chars().take(40).collect();
    let known = FIELDS.iter().map(|(known, _)| *known);
    Err(match closest(name, known.clone()) {
        Some(meant) => format!("has an unknown placeholder {{{shown}}}; did you mean {{{meant}}}?"),
        None => {
            let all: Vec<String> = known.map(|known| format!("{{{known}}}")).collect();
            format!("has an unknown placeholder {{{shown}}}; there are {}", all.join(" "))
        }
    })
}

/// A number for people: at most three decimals, none that are zero.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let trimmed = text.trim_end_matches('0').trim_end_matches('.');
    if trimmed == "-0" { "0".to_owned() } else { trimmed.to_owned() }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC; as a number where that has no such form.
pub(crate) fn rfc3339(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: Values<'_> = Values {
        device_id: "d",
        rule: "hot",
        severity: "critical",
        state: "firing",
        metric: "temperature",
        value: 80.123_456,
        threshold: 80.0,
        count: 5,
        onset_ms: 0,
        time_ms: 1_000,
        window_ms: (0, 1_000),
    };

    #[test]
    fn placeholders_are_filled_in() {
        let template =
            Template::parse("{{{rule}}} {metric} of {device_id}: {value} > {threshold}, {count}x").unwrap();
        assert_eq!(template.render(&VALUES), "{hot} temperature of d: 80.123 > 80, 5x");
        let template =
            Template::parse("{state}/{severity} {onset} {time} {window_start} {window_end}").unwrap();
        assert_eq!(
            template.render(&VALUES),
            "firing/critical 1970-01-01T00:00:00.000Z 1970-01-01T00:00:01.000Z 1970-01-01T00:00:00.000Z \
             1970-01-01T00:00:01.000Z"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(Template::parse("{valeu}").unwrap_err().contains("did you mean {value}?"));
        assert!(Template::parse("{zzzzzzz}").unwrap_err().contains("there are {device_id}"));
        assert!(Template::parse("{value").unwrap_err().contains("without a }"));
        assert!(Template::parse("a } b").unwrap_err().contains("without a {"));
        assert!(Template::parse(&"x".repeat(BYTES_MAX + 1)).unwrap_err().contains("at most"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([80.0, -0.000_01, 1.5, 1e6].map(number), ["80", "0", "1.5", "1000000"]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&VALUES);
            }
        }
    }
}
