//! What a process is told: defaults, a file, the environment and flags, merged and checked as a whole.
//!
//! Never keeps global state and never looks at a value's meaning beyond whether it is possible: whether a
//! certificate can be read or a broker answers is for the role that needs it.

mod convert;
mod environment;
mod error;
mod file;
mod merge;
mod properties;
mod render;
mod secret;
mod section;
mod sections;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use environment::environment;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use file::FILE_BYTES_MAX;
pub use properties::is_secret as is_secret_property;
pub use render::{example, reference, show};
pub use secret::{HIDDEN, Secret};
pub use sections::{
    Alerts, AlertsStart, Bridge, ClickHouse, Compression, Config, Gateway, GatewayLimits, GatewayTls,
    GroupBy, Kafka, LogFormat, Notify, PACKET_BYTES_MAX, READING_BYTES_MAX, StorageGuarantee, Telemetry,
    Writer,
};
pub use validate::Violation;

use merge::Merge;
use section::{Node, Schema};

/// The configuration file that is read when none is named, if it exists in the working directory.
pub const DEFAULT_FILE: &str = "penstock.toml";
/// The environment variable that names the configuration file when no flag does.
pub const FILE_VARIABLE: &str = "PENSTOCK_CONFIG";

/// A configuration, and where each value that is not a default came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// Where each value came from, by dotted path. A path that is missing here has its default.
    pub origins: BTreeMap<String, Origin>,
}

impl Config {
    /// Merges defaults, file, environment and flags, in that order, and checks the result.
    ///
    /// `file` must exist; without it the file that `PENSTOCK_CONFIG` in `env` names must exist; without that
    /// [`DEFAULT_FILE`] is read if it exists. `env` are variables of which those that begin with `PENSTOCK_`
    /// are used, commonly [`environment()`]. `flags` are pairs of a dotted path and a value.
    ///
    /// # Errors
    /// Everything that is wrong in any of the layers, at once: keys that do not exist, values of the wrong
    /// type, impossible values, syntax, and a file that cannot be read or has more than [`FILE_BYTES_MAX`]
    /// bytes.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Loaded, ConfigErrors> {
        let env: Vec<(String, String)> = env.collect();
        let named = file.map(Path::to_path_buf).or_else(|| {
            let variable = env.iter().find(|(name, _)| name == FILE_VARIABLE);
            variable.filter(|(_, path)| !path.is_empty()).map(|(_, path)| PathBuf::from(path))
        });
        let read = match &named {
            Some(path) => file::read(path).map(|text| Some((path.clone(), text))),
            None => file::read_if_exists(Path::new(DEFAULT_FILE))
                .map(|text| text.map(|text| (PathBuf::from(DEFAULT_FILE), text))),
        };
        let (file, unreadable) = match read {
            Ok(file) => (file, None),
            Err(error) => (None, Some(error)),
        };
        let file = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
        merge(file, env.into_iter(), flags, unreadable)
    }

    /// The same for a file whose text is at hand; `path` is what it is called, and its folder is what
    /// relative paths in it are relative to.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn from_text(path: &Path, text: &str) -> Result<Loaded, ConfigErrors> {
        merge(Some((path, text)), std::iter::empty(), &[], None)
    }
}

/// `unreadable` says why there is no file although there should be one.
fn merge(
    file: Option<(&Path, &str)>,
    env: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
    unreadable: Option<ConfigError>,
) -> Result<Loaded, ConfigErrors> {
    let schema = Schema::of::<Config>();
    let mut merge = Merge::new(&schema);
    let mut file_is_whole = unreadable.is_none();
    if let Some(error) = unreadable {
        merge.errors.push(|| error);
    }
    if let Some((path, text)) = file {
        file_is_whole = merge.file(path, text);
    }
    merge.environment(env);
    merge.flags(flags);
    match merge.assemble() {
        // Without the file's values, rules would complain about what the file may well have said.
        Ok(_) if !file_is_whole => Err(merge.errors),
        Ok(mut config) => {
            if let Some(folder) = file.and_then(|(path, _)| path.parent()) {
                resolve_paths(&mut config, folder, &merge.origins);
            }
            check(&config, &mut merge);
            let Merge { origins, errors, .. } = merge;
            if errors.is_empty() { Ok(Loaded { config, origins }) } else { Err(errors) }
        }
        Err(error) => {
            let message = format!("{error}; this is a defect of Penstock, please report it");
            merge.errors.push(|| ConfigError { origin: Origin::Default, key: String::new(), message });
            Err(merge.errors)
        }
    }
}

fn check(config: &Config, merge: &mut Merge<'_>) {
    for Violation { keys, message } in config.validate() {
        if keys.iter().any(|key| merge.refused.contains(key)) {
            continue;
        }
        let set = keys.iter().find_map(|key| merge.origins.get(key));
        let origin = set.cloned().unwrap_or(Origin::Default);
        let key = keys.into_iter().next().unwrap_or_default();
        merge.errors.push(|| ConfigError { origin, key, message });
    }
}

/// Makes relative paths of the file and of defaults relative to `folder`.
fn resolve_paths(config: &mut Config, folder: &Path, origins: &BTreeMap<String, Origin>) {
    config.visit_paths("", &mut |key, path| {
        let elsewhere = matches!(origins.get(key), Some(Origin::Environment(_) | Origin::Flag(_)));
        if !elsewhere && !path.as_os_str().is_empty() {
            *path = folder.join(&path);
        }
    });
}
