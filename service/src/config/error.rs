//! What is wrong with a configuration, and where it stands. Never holds the value of a secret.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// Counted from 1; 0 if the file as a whole is meant.
        line: usize,
        /// Counted from 1, in characters; given for syntax errors only.
        column: Option<usize>,
    },
    /// An environment variable, by name.
    Environment(String),
    /// A `--set` flag, by path.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0, .. } => write!(f, "{}", path.display()),
            Self::File { path, line, column: None } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line, column: Some(column) } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(path) => write!(f, "flag --set {path}"),
        }
    }
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    /// The key in question, dotted; empty if it is not about a key.
    pub key: String,
    /// What was found and what to do instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, message } = self;
        if key.is_empty() {
            write!(f, "{origin}: {message}")
        } else {
            write!(f, "{origin}: {key}: {message}")
        }
    }
}

/// Everything that is wrong with a configuration, one error a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    left_off: usize,
}

impl ConfigErrors {
    /// Errors beyond this many are only counted: nobody reads more, and a hostile file has a million.
    pub const SHOWN_MAX: usize = 100;

    /// The errors, in the order file, environment, flags, rules between keys.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// How many things are wrong.
    pub fn len(&self) -> usize {
        self.errors.len() + self.left_off
    }

    /// Adds the error that `make` makes, or only counts it when there are too many to be read.
    pub(crate) fn push(&mut self, make: impl FnOnce() -> ConfigError) {
        if self.errors.len() < Self::SHOWN_MAX {
            self.errors.push(make());
        } else {
            self.left_off += 1;
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        match self.left_off {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}
