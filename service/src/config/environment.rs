//! Names of environment variables: `PENSTOCK_GATEWAY__TLS__CERT_FILE` is `gateway.tls.cert_file`.
//! Reads none of them by itself, except in [`environment`].

use super::section::{Kind, Schema};
use crate::suggest::closest;

const PREFIX: &str = "PENSTOCK_";

/// Variables with the prefix that are not keys: the configuration file, the devstack's own, settings of tests.
const OTHERS: [&str; 4] =
    ["PENSTOCK_CONFIG", "PENSTOCK_CACHE", "PENSTOCK_DEV_DIR", "PENSTOCK_CLICKHOUSE_HOST"];
const TESTS: &str = "PENSTOCK_TEST_";

/// The variables of this process, for [`Config::load`](super::Config::load). Bytes that are not UTF-8 are
/// replaced.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// Whether a variable is meant to be a key.
pub(crate) fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| !OTHERS.contains(&name) && !name.starts_with(TESTS) && !is_service_link(rest))
}

/// Kubernetes puts the address of a service named `penstock` or `penstock-…` into every pod beside it, in
/// variables such as `PENSTOCK_GATEWAY_SERVICE_HOST` and `PENSTOCK_PORT_8883_TCP_ADDR`. They have no double
/// underscore.
fn is_service_link(rest: &str) -> bool {
    if rest.contains("__") {
        return false;
    }
    let rest = format!("_{rest}");
    if rest.ends_with("_PORT") || rest.ends_with("_SERVICE_HOST") || rest.contains("_SERVICE_PORT_") {
        return true;
    }
    let Some((_, port)) = rest.rsplit_once("_PORT_") else {
        return false;
    };
    let rest = match port.strip_suffix("_ADDR").or_else(|| port.strip_suffix("_PROTO")) {
        Some(rest) => rest,
        None => port,
    };
    let Some((number, protocol)) = rest.split_once('_') else {
        return false;
    };
    number.parse::<u16>().is_ok() && matches!(protocol, "TCP" | "UDP" | "SCTP")
}

/// The dotted path that a variable sets.
pub(crate) fn path_of(schema: &Schema, name: &str) -> Option<String> {
    let exact = schema.keys().find(|key| name_of(&key.path) == name);
    if let Some(key) = exact {
        return Some(key.path.clone());
    }
    schema.keys().filter(|key| key.kind == Kind::Properties).find_map(|key| {
        let entry = name.strip_prefix(&name_of(&key.path))?.strip_prefix("__")?;
        let upper = !entry.is_empty() && !entry.bytes().any(|byte| byte.is_ascii_lowercase());
        upper.then(|| format!("{}.{}", key.path, property_of(entry)))
    })
}

/// The name of a known variable that is close to an unknown one.
pub(crate) fn closest_name(schema: &Schema, name: &str) -> Option<String> {
    let names: Vec<String> = schema.keys().map(|key| name_of(&key.path)).collect();
    closest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

/// The variable that sets the key at `path`.
pub(crate) fn name_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Names of librdkafka properties have dots where a shell's variables can only have underscores.
fn property_of(entry: &str) -> String {
    entry.to_ascii_lowercase().replace("__", ".").replace('_', ".")
}

#[cfg(test)]
mod tests {
    use super::super::sections::Config;
    use super::*;

    #[test]
    fn variables_that_kubernetes_adds_are_no_keys() {
        for name in [
            "PENSTOCK_SERVICE_HOST",
            "PENSTOCK_SERVICE_PORT",
            "PENSTOCK_PORT",
            "PENSTOCK_PORT_8883_TCP",
            "PENSTOCK_PORT_8883_TCP_ADDR",
            "PENSTOCK_GATEWAY_SERVICE_HOST",
            "PENSTOCK_GATEWAY_SERVICE_PORT_MQTTS",
            "PENSTOCK_GATEWAY_PORT_8883_TCP_PROTO",
            "PENSTOCK_GATEWAY_PORT_8883_TCP_PORT",
            "PENSTOCK_CONFIG",
            "PENSTOCK_CACHE",
            "PENSTOCK_DEV_DIR",
            "PENSTOCK_CLICKHOUSE_HOST",
            "PENSTOCK_TEST_KAFKA",
            "PATH",
        ] {
            assert!(!is_ours(name), "{name}");
        }
        for name in
            ["PENSTOCK_GATEWAY__LISTEN", "PENSTOCK_GATEWAY_LISTEN", "PENSTOCK_X__PORT", "PENSTOCK_PORT_X_TCP"]
        {
            assert!(is_ours(name), "{name}");
        }
    }

    #[test]
    fn every_key_has_a_variable() {
        let schema = Schema::of::<Config>();
        for key in schema.keys() {
            assert_eq!(path_of(&schema, &name_of(&key.path)).as_deref(), Some(key.path.as_str()));
        }
        assert_eq!(
            path_of(&schema, "PENSTOCK_KAFKA__PROPERTIES__SASL_PASSWORD").as_deref(),
            Some("kafka.properties.sasl.password")
        );
        assert_eq!(path_of(&schema, "PENSTOCK_GATEWAY__listen"), None);
        assert_eq!(path_of(&schema, "PENSTOCK_KAFKA__PROPERTIES__"), None);
    }
}
