//! One source for a section of the configuration: the struct, its defaults, the documentation and the allowed
//! range of every key. The checks, the reference and the example file are derived from it. Never knows a
//! concrete key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::{Table, Value};

use super::properties;
use super::secret::{HIDDEN, Secret};

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Secret,
    Integer,
    Boolean,
    Path,
    Paths,
    Address,
    Choice(&'static [&'static str]),
    Properties,
}

/// Everything known of one key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Dotted, such as `gateway.limits.inflight_max`.
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// Both ends belong to it. Only integers have one.
    pub(crate) range: Option<RangeInclusive<i64>>,
    pub(crate) docs: &'static [&'static str],
    pub(crate) default: Value,
}

/// A table of the file, with the keys directly in it.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) path: String,
    pub(crate) docs: &'static [&'static str],
    pub(crate) keys: Vec<Key>,
}

/// All sections, in the order of the structs, a section before the sections within it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    pub(crate) sections: Vec<Section>,
}

impl Schema {
    pub(crate) fn of<T: Node + Default>() -> Self {
        let mut schema = Self::default();
        T::describe(Field::default(), &mut schema);
        schema
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.sections.iter().flat_map(|section| &section.keys)
    }

    pub(crate) fn key(&self, path: &str) -> Option<&Key> {
        self.keys().find(|key| key.path == path)
    }

    pub(crate) fn has_section(&self, path: &str) -> bool {
        self.sections.iter().any(|section| section.path == path)
    }

    /// The key of kind [`Kind::Properties`] that `path` names an entry of, and the name of the entry.
    pub(crate) fn entry<'a>(&self, path: &'a str) -> Option<(&Key, &'a str)> {
        self.keys().filter(|key| key.kind == Kind::Properties).find_map(|key| {
            let name = path.strip_prefix(key.path.as_str())?.strip_prefix('.')?;
            (!name.is_empty()).then_some((key, name))
        })
    }
}

/// A place in the tree while it is described.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) path: String,
    /// Index of the section that the field stands in.
    pub(crate) section: usize,
    pub(crate) docs: &'static [&'static str],
    pub(crate) range: Option<RangeInclusive<i64>>,
    pub(crate) default: Value,
}

impl Default for Field {
    fn default() -> Self {
        Self { path: String::new(), section: 0, docs: &[], range: None, default: Value::Boolean(false) }
    }
}

/// A section or the value of a key.
pub(crate) trait Node {
    /// Adds what `field`, of this type, is made of.
    fn describe(field: Field, schema: &mut Schema);

    /// The value as TOML, secrets hidden.
    fn shown(&self) -> Value;

    /// Shows every path within to `visit`, with the dotted path of its key.
    fn visit_paths(&mut self, _key: &str, _visit: &mut dyn FnMut(&str, &mut PathBuf)) {}
}

/// Puts one key into the section that its field stands in.
pub(crate) fn describe_key(
    field: Field,
    kind: Kind,
    range: Option<RangeInclusive<i64>>,
    schema: &mut Schema,
) {
    let Field { path, section, docs, default, .. } = field;
    if let Some(section) = schema.sections.get_mut(section) {
        section.keys.push(Key { path, kind, range, docs, default });
    }
}

/// `parent.name`, or `name` at the top.
pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

macro_rules! leaf {
    ($($type:ty, $kind:expr, $value:ident => $shown:expr;)*) => {$(
        impl Node for $type {
            fn describe(field: Field, schema: &mut Schema) {
                describe_key(field, $kind, None, schema);
            }

            fn shown(&self) -> Value {
                let $value = self;
                $shown
            }
        }
    )*};
}

leaf! {
    String, Kind::Text, value => Value::String(value.clone());
    bool, Kind::Boolean, value => Value::Boolean(*value);
    Secret, Kind::Secret, value => Value::String(if value.is_empty() { "" } else { HIDDEN }.to_owned());
    SocketAddr, Kind::Address, value => Value::String(value.to_string());
    BTreeMap<String, String>, Kind::Properties, value => Value::Table(shown_properties(value));
}

impl Node for PathBuf {
    fn describe(field: Field, schema: &mut Schema) {
        describe_key(field, Kind::Path, None, schema);
    }

    fn shown(&self) -> Value {
        Value::String(self.display().to_string())
    }

    fn visit_paths(&mut self, key: &str, visit: &mut dyn FnMut(&str, &mut PathBuf)) {
        visit(key, self);
    }
}

impl Node for Vec<PathBuf> {
    fn describe(field: Field, schema: &mut Schema) {
        describe_key(field, Kind::Paths, None, schema);
    }

    fn shown(&self) -> Value {
        Value::Array(self.iter().map(Node::shown).collect())
    }

    fn visit_paths(&mut self, key: &str, visit: &mut dyn FnMut(&str, &mut PathBuf)) {
        for path in self {
            visit(key, path);
        }
    }
}

fn shown_properties(properties: &BTreeMap<String, String>) -> Table {
    let shown = |(name, value): (&String, &String)| {
        let value = if properties::is_secret(name) { HIDDEN } else { value };
        (name.clone(), Value::String(value.to_owned()))
    };
    properties.iter().map(shown).collect()
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Node for $type {
            fn describe(mut field: Field, schema: &mut Schema) {
                let least = i64::try_from(<$type>::MIN).unwrap_or(i64::MIN);
                let most = i64::try_from(<$type>::MAX).unwrap_or(i64::MAX);
                let range = field.range.take().unwrap_or(least..=most);
                describe_key(field, Kind::Integer, Some(range), schema);
            }

            fn shown(&self) -> Value {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}

integer!(u16, u32, u64, usize, i16);

/// Defines a section: documentation, type, default and, for integers, range of every key.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {$(
            $(#[doc = $field_doc:literal])*
            $field:ident: $type:ty = $default:expr $(, in $range:expr)?;
        )*}
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::section::Node for $name {
            fn describe(
                field: $crate::config::section::Field,
                schema: &mut $crate::config::section::Schema,
            ) {
                use $crate::config::section::{Field, Node, Section, join};
                let section = schema.sections.len();
                let docs = &[$($doc),*];
                schema.sections.push(Section { path: field.path.clone(), docs, keys: Vec::new() });
                let default = Self::default();
                $(<$type as Node>::describe(
                    Field {
                        path: join(&field.path, stringify!($field)),
                        section,
                        docs: &[$($field_doc),*],
                        range: None::<std::ops::RangeInclusive<i64>>$(.or(Some($range)))?,
                        default: Node::shown(&default.$field),
                    },
                    schema,
                );)*
            }

            fn shown(&self) -> toml::Value {
                let mut table = toml::Table::new();
                $(table.insert(
                    stringify!($field).to_owned(),
                    $crate::config::section::Node::shown(&self.$field),
                );)*
                toml::Value::Table(table)
            }

            fn visit_paths(
                &mut self,
                key: &str,
                visit: &mut dyn FnMut(&str, &mut std::path::PathBuf),
            ) {
                use $crate::config::section::{Node, join};
                $(Node::visit_paths(&mut self.$field, &join(key, stringify!($field)), visit);)*
            }
        }

        // Debug and Serialize go through `shown` because they must hide the secrets that a plain map may
        // hold.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &$crate::config::section::Node::shown(&self.$field)))*
                    .finish()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::config::section::Node::shown(self).serialize(serializer)
            }
        }
    };
}

/// Defines a key that takes one of a few words; the first is the default.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident {$(
            $(#[doc = $variant_doc:literal])*
            $variant:ident = $word:literal,
        )*}
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
        pub enum $name {
            $($(#[doc = $variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            const WORDS: &[&str] = &[$($word),*];

            /// The word that stands for it in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::config::section::Node for $name {
            fn describe(
                field: $crate::config::section::Field,
                schema: &mut $crate::config::section::Schema,
            ) {
                use $crate::config::section::{Kind, describe_key};
                describe_key(field, Kind::Choice(Self::WORDS), None, schema);
            }

            fn shown(&self) -> toml::Value {
                toml::Value::String(self.as_str().to_owned())
            }
        }
    };
}

pub(crate) use {choice, section};
