//! From a value as it was written to the value of a key, or to a sentence that says what was found and what
//! is asked for. Pure; never repeats the value of a secret.

use std::net::SocketAddr;

use toml::Value;
use toml::de::DeValue;

use super::properties;
use super::section::{Key, Kind};
use crate::suggest::closest;

/// More of a found value is not repeated in an error.
const FOUND_CHARS_MAX: usize = 64;

/// The value of `key` from TOML.
pub(crate) fn from_file(key: &Key, found: &DeValue<'_>) -> Result<Value, String> {
    let refuse = || Err(refusal(key, &describe(found, key.kind == Kind::Secret)));
    match (key.kind, found) {
        (Kind::Integer, DeValue::Integer(integer)) => {
            let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
            in_range(key, value).map_or_else(refuse, |value| Ok(Value::Integer(value)))
        }
        (Kind::Boolean, DeValue::Boolean(boolean)) => Ok(Value::Boolean(*boolean)),
        (Kind::Paths, DeValue::Array(items)) => {
            let texts: Option<Vec<Value>> = items
                .iter()
                .map(|item| item.get_ref().as_str().map(|text| Value::String(text.to_owned())))
                .collect();
            texts.map_or_else(refuse, |texts| Ok(Value::Array(texts)))
        }
        (Kind::Integer | Kind::Boolean | Kind::Paths | Kind::Properties, _) => refuse(),
        (Kind::Text | Kind::Secret | Kind::Path | Kind::Address | Kind::Choice(_), DeValue::String(text)) => {
            from_text(key, text)
        }
        (Kind::Text | Kind::Secret | Kind::Path | Kind::Address | Kind::Choice(_), _) => refuse(),
    }
}

/// The value of `key` from the plain text of an environment variable or a flag.
pub(crate) fn from_text(key: &Key, text: &str) -> Result<Value, String> {
    let refuse = || Err(refusal(key, &quote(text)));
    match key.kind {
        Kind::Text | Kind::Secret | Kind::Path => Ok(Value::String(text.to_owned())),
        Kind::Integer => {
            let value = text.trim().replace('_', "").parse().ok();
            in_range(key, value).map_or_else(refuse, |value| Ok(Value::Integer(value)))
        }
        Kind::Boolean => text.trim().parse().map_or_else(|_| refuse(), |boolean| Ok(Value::Boolean(boolean))),
        Kind::Paths => {
            let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
            Ok(Value::Array(paths.map(|path| Value::String(path.to_owned())).collect()))
        }
        Kind::Address => match text.parse::<SocketAddr>() {
            Ok(address) => Ok(Value::String(address.to_string())),
            Err(_) => refuse(),
        },
        Kind::Choice(words) if words.contains(&text) => Ok(Value::String(text.to_owned())),
        Kind::Choice(words) => {
            let hint = closest(text, words.iter().copied()).map(|word| format!(" (did you mean {word}?)"));
            Err(refusal(key, &quote(text)) + &hint.unwrap_or_default())
        }
        Kind::Properties => {
            Err(format!("is a table of properties: set one of them, such as {}.socket.timeout.ms", key.path))
        }
    }
}

/// The value of one librdkafka property from TOML. Numbers and booleans are taken as they are written.
pub(crate) fn property(name: &str, found: &DeValue<'_>) -> Result<Value, String> {
    let text = match found {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_owned(),
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Integer(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            let found = describe(found, properties::is_secret(name));
            return Err(format!("found {found}; write the value as a text in quotes"));
        }
    };
    Ok(Value::String(text))
}

/// `found …; must be …`.
pub(crate) fn refusal(key: &Key, found: &str) -> String {
    format!("found {found}; must be {}", asked_for(key))
}

/// What the values of `key` look like.
fn asked_for(key: &Key) -> String {
    match (key.kind, &key.range) {
        (Kind::Integer, Some(range)) => format!("a whole number from {} to {}", range.start(), range.end()),
        (Kind::Integer, None) => "a whole number".to_owned(),
        (Kind::Boolean, _) => "true or false".to_owned(),
        (Kind::Text | Kind::Secret, _) => "a text in quotes".to_owned(),
        (Kind::Path, _) => "a path in quotes".to_owned(),
        (Kind::Paths, _) => "a list of paths, such as [\"one.pem\", \"two.pem\"]".to_owned(),
        (Kind::Address, _) => {
            format!("an IP address and a port, such as {}", key.default.as_str().unwrap_or("127.0.0.1:9464"))
        }
        (Kind::Choice(words), _) => format!("one of {}", words.join(", ")),
        (Kind::Properties, _) => {
            "a table of properties, such as { \"socket.timeout.ms\" = \"5000\" }".to_owned()
        }
    }
}

fn in_range(key: &Key, value: Option<i64>) -> Option<i64> {
    let range = key.range.as_ref()?;
    value.filter(|value| range.contains(value))
}

/// `text` in quotes, escaped and cut to a readable length.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}

/// A TOML value as it is repeated in an error; only its type if it is `secret`.
fn describe(found: &DeValue<'_>, secret: bool) -> String {
    match found {
        DeValue::String(_) if secret => "a text".to_owned(),
        DeValue::String(text) => quote(text),
        DeValue::Integer(_) | DeValue::Float(_) if secret => "a number".to_owned(),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(_) if secret => "a boolean".to_owned(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(_) if secret => "a date".to_owned(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}
