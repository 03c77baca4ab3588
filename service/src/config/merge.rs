//! Lays the file, the environment and the flags over each other, key by key, and remembers where each value
//! came from. Never stops at the first error, and never reads a file or the environment itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::Error as _;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::convert::{from_file, from_text, property};
use super::environment;
use super::error::{ConfigError, ConfigErrors, Origin};
use super::section::{Key, Kind, Schema, join};
use super::sections::Config;
use crate::suggest::closest;

/// What the layers said so far. A value that was refused leaves its key as it was.
pub(crate) struct Merge<'s> {
    schema: &'s Schema,
    values: BTreeMap<String, Value>,
    pub(crate) origins: BTreeMap<String, Origin>,
    /// Keys whose value was refused: rules about them would only repeat the error.
    pub(crate) refused: BTreeSet<String>,
    pub(crate) errors: ConfigErrors,
}

impl<'s> Merge<'s> {
    pub(crate) fn new(schema: &'s Schema) -> Self {
        Self {
            schema,
            values: BTreeMap::new(),
            origins: BTreeMap::new(),
            refused: BTreeSet::new(),
            errors: ConfigErrors::default(),
        }
    }

    /// Adds a file. `path` is only what it is called in errors. False if its syntax is broken: then none of
    /// its values counts.
    pub(crate) fn file(&mut self, path: &Path, text: &str) -> bool {
        let lines = Lines::of(path, text);
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let mut walk = FileWalk { merge: self, lines: &lines, wrong: Vec::new() };
            walk.table("", table.get_ref());
            let mut wrong = walk.wrong;
            // The parser sorts keys by name; people read a file from top to bottom.
            wrong.sort_by_key(|(at, ..)| *at);
            for (at, key, message) in wrong {
                let schema = self.schema;
                self.errors.push(|| {
                    // Only here, because it is dear to look for what was meant by each of a million keys.
                    let message = message.unwrap_or_else(|| unknown(schema, &key));
                    ConfigError { origin: lines.line(at), key, message }
                });
            }
            return true;
        }
        // What a broken file says of its keys cannot be relied on: report its syntax only, and of each line
        // only the first error, of which the others are consequences.
        let place = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start);
        let mut errors: Vec<(usize, String)> =
            errors.iter().map(|error| (place(error), error.message().to_owned())).collect();
        errors.sort_by_key(|(at, _)| *at);
        errors.dedup_by_key(|(at, _)| lines.number(*at));
        for (at, message) in errors {
            self.errors.push(|| ConfigError { origin: lines.precise(at), key: String::new(), message });
        }
        false
    }

    /// Adds environment variables; those without the prefix of Penstock are not looked at.
    pub(crate) fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let ours: BTreeMap<String, String> =
            variables.filter(|(name, _)| environment::is_ours(name)).collect();
        for (name, text) in ours {
            let origin = Origin::Environment(name.clone());
            match environment::path_of(self.schema, &name) {
                Some(path) => self.text(&path, &text, origin),
                None => {
                    let meant = environment::closest_name(self.schema, &name);
                    let message = format!("unknown environment variable{}", did_you_mean(meant.as_deref()));
                    self.refuse("", origin, message);
                }
            }
        }
    }

    /// Adds flags: pairs of a dotted path and a value. The last one wins.
    pub(crate) fn flags(&mut self, flags: &[(String, String)]) {
        for (path, text) in flags {
            self.text(path, text, Origin::Flag(path.clone()));
        }
    }

    fn text(&mut self, path: &str, text: &str, origin: Origin) {
        let schema = self.schema;
        if let Some(key) = schema.key(path) {
            self.set(path, from_text(key, text), origin);
        } else if schema.entry(path).is_some() {
            self.set(path, Ok(Value::String(text.to_owned())), origin);
        } else {
            self.refuse(path, origin, unknown(schema, path));
        }
    }

    fn set(&mut self, path: &str, value: Result<Value, String>, origin: Origin) {
        match value {
            Ok(value) => {
                self.values.insert(path.to_owned(), value);
                self.origins.insert(path.to_owned(), origin);
            }
            Err(message) => self.refuse(path, origin, message),
        }
    }

    fn refuse(&mut self, path: &str, origin: Origin, message: String) {
        self.refused.insert(path.to_owned());
        self.errors.push(|| ConfigError { origin, key: path.to_owned(), message });
    }

    /// The configuration that the layers make.
    ///
    /// # Errors
    /// None that a user can cause: every value was converted to the type of its key before.
    pub(crate) fn assemble(&self) -> Result<Config, toml::de::Error> {
        let mut root = Table::new();
        for (path, value) in &self.values {
            let (sections, name) = match self.schema.entry(path) {
                Some((key, name)) => (key.path.as_str(), name),
                None => path.rsplit_once('.').unwrap_or(("", path)),
            };
            let mut table = &mut root;
            for section in sections.split('.').filter(|section| !section.is_empty()) {
                let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                table = inner.as_table_mut().ok_or_else(|| toml::de::Error::custom("not a section"))?;
            }
            table.insert(name.to_owned(), value.clone());
        }
        Config::deserialize(root)
    }
}

fn unknown(schema: &Schema, path: &str) -> String {
    if schema.has_section(path) {
        return "is a section: set a key in it".to_owned();
    }
    let sections = schema.sections.iter().map(|section| section.path.as_str());
    let keys = schema.keys().map(|key| key.path.as_str());
    let meant = closest(path, keys.chain(sections.filter(|path| !path.is_empty())));
    format!("unknown key{}", did_you_mean(meant))
}

fn did_you_mean(candidate: Option<&str>) -> String {
    match candidate {
        Some(candidate) => format!("; did you mean {candidate}?"),
        None => "; see the reference of all keys, docs/CONFIGURATION.md".to_owned(),
    }
}

/// One pass over the tables of a file.
struct FileWalk<'m, 's, 't> {
    merge: &'m mut Merge<'s>,
    lines: &'m Lines<'t>,
    /// Byte offset, path, and what is wrong; `None` if no key is called so.
    wrong: Vec<(usize, String, Option<String>)>,
}

impl FileWalk<'_, '_, '_> {
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let path = join(section, name.get_ref());
            let at = name.span().start;
            let schema = self.merge.schema;
            // A quoted name with dots in it is not the path that it looks like.
            let plain = !name.get_ref().contains('.');
            match schema.key(&path).filter(|_| plain) {
                Some(key) if key.kind == Kind::Properties => self.properties(key, at, value),
                Some(key) => self.set(&path, at, from_file(key, value.get_ref())),
                None if !plain && (schema.key(&path).is_some() || schema.has_section(&path)) => {
                    self.set(&path, at, Err("is taken as a single name: write it without quotes".to_owned()));
                }
                None => match value.get_ref() {
                    DeValue::Table(inner) if schema.has_section(&path) => self.table(&path, inner),
                    DeValue::Array(_) if schema.has_section(&path) => {
                        let message = format!("is a single section: write [{path}], not [[{path}]]");
                        self.set(&path, at, Err(message));
                    }
                    _ => self.wrong.push((at, path, None)),
                },
            }
        }
    }

    fn properties(&mut self, key: &Key, at: usize, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.property_table(&key.path, "", table),
            other => self.set(&key.path, at, from_file(key, other)),
        }
    }

    /// `sasl.username = "x"` without quotes makes tables within tables: the name is all of them together.
    fn property_table(&mut self, parent: &str, prefix: &str, table: &DeTable<'_>) {
        for (part, value) in table {
            let name = join(prefix, part.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                self.property_table(parent, &name, inner);
                continue;
            }
            let path = join(parent, &name);
            let converted = if self.merge.values.contains_key(&path) {
                Err("is given twice, with and without quotes: keep one".to_owned())
            } else {
                property(&name, value.get_ref())
            };
            self.set(&path, part.span().start, converted);
        }
    }

    fn set(&mut self, path: &str, at: usize, value: Result<Value, String>) {
        match value {
            Ok(value) => self.merge.set(path, Ok(value), self.lines.line(at)),
            Err(message) => {
                self.merge.refused.insert(path.to_owned());
                self.wrong.push((at, path.to_owned(), Some(message)));
            }
        }
    }
}

/// From byte offsets to lines and columns.
struct Lines<'t> {
    path: &'t Path,
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(path: &'t Path, text: &'t str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { path, text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// Counted from 1.
    fn number(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    fn line(&self, at: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: self.number(at), column: None }
    }

    fn precise(&self, at: usize) -> Origin {
        let line = self.number(at);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count()) + 1;
        Origin::File { path: self.path.to_owned(), line, column: Some(column) }
    }
}
