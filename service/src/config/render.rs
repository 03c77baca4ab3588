//! The configuration as text: in effect, as a reference of all keys, and as an example file. Pure; shows no
//! secret.

use std::fmt::Write as _;

use serde_json::json;
use toml::Value;

use super::Loaded;
use super::environment::name_of;
use super::properties;
use super::section::{Key, Kind, Node, Schema, Section};
use super::sections::Config;

/// The effective configuration, secrets as `***`: as TOML in which a comment names where each value came from
/// that is not a default, or as one JSON object `{"config": …, "origins": {path: origin}}`.
pub fn show(loaded: &Loaded, json: bool) -> String {
    if json {
        let origins = loaded.origins.iter().map(|(path, origin)| (path.clone(), json!(origin.to_string())));
        let origins: serde_json::Map<_, _> = origins.collect();
        return format!("{:#}\n", json!({ "config": loaded.config, "origins": origins }));
    }
    let shown = loaded.config.shown();
    let mut text = String::from(
        "# The configuration in effect. A comment names where a value came from; \
                                 values without one are defaults.\n",
    );
    let write = |text: &mut String, name: &str, path: &str, value: &Value| {
        let origin = loaded.origins.get(path).map(|origin| format!(" # {}", one_line(&origin.to_string())));
        let _ = writeln!(text, "{name} = {value}{}", origin.unwrap_or_default());
    };
    for section in printed_sections(&Schema::of::<Config>()) {
        let _ = writeln!(text, "\n[{}]", section.path);
        for key in &section.keys {
            let Some(value) = value_at(&shown, &key.path) else { continue };
            match value {
                // A table of its own would end the section; dotted names do not.
                Value::Table(entries) => {
                    for (name, value) in entries {
                        let dotted = format!("{}.{}", last(&key.path), Value::String(name.clone()));
                        write(&mut text, &dotted, &format!("{}.{name}", key.path), value);
                    }
                }
                value => write(&mut text, last(&key.path), &key.path, value),
            }
        }
    }
    text
}

/// The reference of all keys in Markdown: `docs/CONFIGURATION.md`.
pub fn reference() -> String {
    let mut text = String::from(INTRODUCTION);
    for section in printed_sections(&Schema::of::<Config>()) {
        let _ = writeln!(text, "\n## `[{}]`\n\n{}\n", section.path, sentence(section.docs));
        text.push_str("| key | type | default | what it means |\n|---|---|---|---|\n");
        for key in &section.keys {
            let (name, default) = (last(&key.path), &key.default);
            let meaning = sentence(key.docs).replace('|', "\\|");
            let _ = writeln!(text, "| `{name}` | {} | `{default}` | {meaning} |", type_of(key));
        }
    }
    text.push_str("\n## Properties of librdkafka that cannot be set\n\n| property | why |\n|---|---|\n");
    for (name, why) in properties::all_forbidden() {
        let _ = writeln!(text, "| `{name}` | {why} |");
    }
    text
}

/// A configuration file in which every key stands commented out with its default: `deploy/penstock.toml`.
pub fn example() -> String {
    let mut text = String::from(
        "# Configuration of Penstock. Every key stands here with its default: to change one, remove the # before it.\n\
         # All keys, with types and limits: docs/CONFIGURATION.md. To check a file: penstock config check.\n",
    );
    for section in printed_sections(&Schema::of::<Config>()) {
        text.push('\n');
        comment(&mut text, section.docs);
        let _ = writeln!(text, "[{}]", section.path);
        for key in &section.keys {
            comment(&mut text, key.docs);
            let _ = writeln!(text, "#{} = {}", last(&key.path), key.default);
        }
    }
    text
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made from service/src/config/sections.rs: change it there, then run
     PENSTOCK_TEST_UPDATE=1 cargo test -p penstock-service -->

A value is taken from the last of these that names it:

1. the default in the tables below;
2. the configuration file: the one that the command line or `PENSTOCK_CONFIG` names, or else `penstock.toml` in the
   working directory if there is one;
3. the environment: `PENSTOCK_`, then the section and the key in capitals with `__` for each dot, such as
   `PENSTOCK_GATEWAY__TLS__CERT_FILE`. Values are plain text without quotes; lists are separated by commas;
4. flags: `--set gateway.listen=0.0.0.0:8884`.

Unknown keys, wrong types and impossible values are errors; all of them are reported at once, each with the file and
line, the variable or the flag it came from. `penstock config check` does only that; `penstock config show` prints what
is in effect and where it came from, passwords as `***`.

Relative paths in the configuration file, and defaults when a file was read, are relative to the file's folder; in the
environment and in flags they are relative to the working directory. A configuration file has at most 1 MiB.

`PENSTOCK_CONFIG`, `PENSTOCK_CACHE`, `PENSTOCK_DEV_DIR`, `PENSTOCK_TEST_…` and the variables that Kubernetes adds for a service named
`penstock…` are not keys; any other `PENSTOCK_…` variable is.
";

/// Sections with keys, as they stand in a file.
fn printed_sections(schema: &Schema) -> impl Iterator<Item = &Section> {
    schema.sections.iter().filter(|section| !section.keys.is_empty())
}

fn value_at<'v>(root: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(root, |value, part| value.get(part))
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

fn sentence(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

fn comment(text: &mut String, docs: &[&str]) {
    for line in docs {
        let _ = writeln!(text, "# {}", line.trim());
    }
}

/// An origin names a file or a variable, whose name may have any character.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

fn type_of(key: &Key) -> String {
    match (key.kind, &key.range) {
        (Kind::Integer, Some(range)) => format!("integer, {} to {}", range.start(), range.end()),
        (Kind::Integer, None) => "integer".to_owned(),
        (Kind::Boolean, _) => "true or false".to_owned(),
        (Kind::Text, _) => "text".to_owned(),
        (Kind::Secret, _) => format!("secret text (`{}`)", name_of(&key.path)),
        (Kind::Path, _) => "path".to_owned(),
        (Kind::Paths, _) => "list of paths".to_owned(),
        (Kind::Address, _) => "IP address and port".to_owned(),
        (Kind::Choice(words), _) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        (Kind::Properties, _) => "table of texts".to_owned(),
    }
}
