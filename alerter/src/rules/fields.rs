//! Reads the keys of one table of the rules file and notes what is wrong with them, with the line. Pure.

use penstock_service::suggest::closest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::error::RulesError;

/// From byte offsets of a file to problems with lines.
pub(crate) struct Report<'t> {
    file: &'t str,
    starts: Vec<usize>,
    pub(crate) problems: RulesError,
}

impl<'t> Report<'t> {
    pub(crate) fn new(file: &'t str, text: &str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self {
            file,
            starts: std::iter::once(0).chain(after_breaks).collect(),
            problems: RulesError::default(),
        }
    }

    /// Counted from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    pub(crate) fn push(&mut self, at: usize, message: String) {
        let line = self.line(at);
        self.problems.push(self.file, line, message);
    }
}

/// One table, in which every key that is asked for is known.
pub(crate) struct Fields<'a, 'r, 't> {
    /// What the table is called in problems, such as `rules.hot`.
    path: String,
    /// Where the table begins.
    at: usize,
    table: &'a DeTable<'a>,
    report: &'r mut Report<'t>,
    failed: bool,
}

impl<'a, 'r, 't> Fields<'a, 'r, 't> {
    pub(crate) fn new(path: String, at: usize, table: &'a DeTable<'a>, report: &'r mut Report<'t>) -> Self {
        Self { path, at, table, report, failed: false }
    }

    /// Whether anything was wrong.
    pub(crate) const fn failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// Notes a problem of a key; of the table where the key is not there.
    pub(crate) fn wrong(&mut self, key: &str, message: &str) {
        self.failed = true;
        let at = self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| name.span().start);
        let message = format!("{}.{key}: {message}", self.path);
        self.report.push(at.unwrap_or(self.at), message);
    }

    /// Notes a problem of the table.
    pub(crate) fn wrong_table(&mut self, message: &str) {
        self.failed = true;
        self.report.push(self.at, format!("{}: {message}", self.path));
    }

    /// Refuses keys that are neither `common` nor `own`; `elsewhere` are keys of other tables of the sort.
    pub(crate) fn refuse_others(&mut self, common: &[&str], own: &[&str], elsewhere: &[&str], what: &str) {
        let unknown: Vec<String> = self
            .table
            .keys()
            .map(|name| name.get_ref().to_string())
            .filter(|name| !common.contains(&name.as_str()) && !own.contains(&name.as_str()))
            .collect();
        for name in unknown {
            let known = own.iter().chain(common).copied();
            let all: Vec<&str> = known.clone().collect();
            let message = if elsewhere.contains(&name.as_str()) {
                format!("is no key of {what}; its keys are {}", all.join(", "))
            } else {
                match closest(&name, known) {
                    Some(meant) => format!("unknown key; did you mean {meant}?"),
                    None => format!("unknown key; the keys of {what} are {}", all.join(", ")),
                }
            };
            self.wrong(&name, &message);
        }
    }

    fn typed<T>(
        &mut self,
        key: &str,
        asked_for: &str,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Option<T> {
        let found = self.get(key)?;
        let value = read(found.get_ref());
        if value.is_none() {
            let found = describe(found.get_ref());
            self.wrong(key, &format!("found {found}; must be {asked_for}"));
        }
        value
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &str, asked_for: &str) -> Option<&'a str> {
        match self.get(key)?.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.typed(key, asked_for, |_| None),
        }
    }

    /// One of the words.
    pub(crate) fn choice(&mut self, key: &str, words: &[&'static str]) -> Option<&'static str> {
        let asked_for = format!("one of {}", words.join(", "));
        let text = self.text(key, &asked_for)?;
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        let hint = closest(text, words.iter().copied()).map(|word| format!(" (did you mean {word}?)"));
        self.wrong(key, &format!("found {text:?}; must be {asked_for}{}", hint.unwrap_or_default()));
        None
    }

    /// A finite number.
    pub(crate) fn number(&mut self, key: &str) -> Option<f64> {
        self.typed(key, "a number, such as 80 or 7.5", |value| {
            let number = match value {
                DeValue::Float(float) => float.as_str().replace('_', "").parse::<f64>().ok(),
                #[allow(clippy::cast_precision_loss, reason = "checked to be small enough")]
                DeValue::Integer(_) => {
                    integer(value).filter(|n| n.unsigned_abs() < 1 << 53).map(|n| n as f64)
                }
                _ => None,
            };
            number.filter(|number| number.is_finite())
        })
    }

    /// A whole number within bounds.
    pub(crate) fn count(&mut self, key: &str, min: usize, max: usize) -> Option<usize> {
        self.typed(key, &format!("a whole number from {min} to {max}"), |value| {
            integer(value).and_then(|n| usize::try_from(n).ok()).filter(|n| (min..=max).contains(n))
        })
    }

    /// Milliseconds of a duration.
    pub(crate) fn duration(&mut self, key: &str) -> Option<i64> {
        let asked_for = "a duration from 1ms to 366d, such as \"90s\", \"5m\" or \"1h30m\"";
        self.typed(key, asked_for, |value| value.as_str().and_then(duration::parse))
    }

    /// A list of texts, each with its place.
    pub(crate) fn texts(&mut self, key: &str, asked_for: &str) -> Option<Vec<(usize, &'a str)>> {
        let found = self.get(key)?;
        let DeValue::Array(items) = found.get_ref() else { return self.typed(key, asked_for, |_| None) };
        let texts: Option<Vec<(usize, &str)>> =
            items.iter().map(|item| Some((item.span().start, item.get_ref().as_str()?))).collect();
        if texts.is_none() {
            self.wrong(key, &format!("found another value in the list; must be {asked_for}"));
        }
        texts
    }

    /// A table within the table.
    pub(crate) fn table<T>(
        &mut self,
        key: &str,
        asked_for: &str,
        read: impl FnOnce(&mut Fields<'a, '_, 't>) -> T,
    ) -> Option<T> {
        let found = self.get(key)?;
        let DeValue::Table(table) = found.get_ref() else { return self.typed(key, asked_for, |_| None) };
        let mut fields = Fields {
            path: format!("{}.{key}", self.path),
            at: found.span().start,
            table,
            report: &mut *self.report,
            failed: false,
        };
        let value = read(&mut fields);
        self.failed |= fields.failed;
        Some(value)
    }

    /// Asks for a key that must be there.
    pub(crate) fn required<T>(
        &mut self,
        key: &str,
        why: &str,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.wrong_table(&format!("needs the key {key}: {why}"));
            return None;
        }
        read(self, key)
    }

    /// Where a problem of an item of a list stands.
    pub(crate) fn wrong_item(&mut self, at: usize, key: &str, message: &str) {
        self.failed = true;
        self.report.push(at, format!("{}.{key}: {message}", self.path));
    }

    /// Notes problems of another file.
    pub(crate) fn problems(&mut self) -> &mut RulesError {
        &mut self.report.problems
    }

    pub(crate) const fn fail(&mut self) {
        self.failed = true;
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    match value {
        DeValue::Integer(integer) => {
            i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
        }
        _ => None,
    }
}

fn describe(found: &DeValue<'_>) -> String {
    match found {
        DeValue::String(text) if text.chars().count() > 64 => format!("a text of {} bytes", text.len()),
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
