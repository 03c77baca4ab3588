//! Values that are of the right type and yet impossible, alone or together. Pure: it opens no file, resolves
//! no name and connects to nothing.

use std::fmt;
use std::path::Path;

use axum::http::Uri;
use toml::Value;

use super::convert::{quote, refusal};
use super::properties;
use super::section::{Kind, Node, Schema};
use super::sections::{Alerts, Bridge, ClickHouse, Config, Gateway, Kafka, Notify, Telemetry, Writer};
use crate::suggest::closest;
use crate::telemetry::parse_filter;

/// Longest name that Kafka takes for a topic, in bytes.
const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Room that a prefix must leave for the longest topic name of Penstock.
const OWN_TOPIC_NAME_BYTES_MAX: usize = 64;

/// A rule that a configuration breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Dotted paths of the keys that are part of it, the one to blame first. Never empty.
    pub keys: Vec<String>,
    /// What was found and what to do instead.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.keys.join(", "), self.message)
    }
}

impl Config {
    /// Every rule that this configuration breaks; none if it is possible.
    ///
    /// [`Config::load`] has done this already; it is for configurations that are put together by a program.
    pub fn validate(&self) -> Vec<Violation> {
        let mut rules = Rules::default();
        rules.ranges(self);
        rules.gateway(&self.gateway);
        rules.kafka(&self.kafka);
        rules.bridge(&self.bridge);
        rules.writer(&self.writer);
        rules.alerts(&self.alerts);
        rules.clickhouse(&self.clickhouse);
        rules.notify(&self.notify);
        rules.telemetry(&self.telemetry);
        rules.listeners(self);
        rules.0
    }
}

#[derive(Default)]
struct Rules(Vec<Violation>);

impl Rules {
    fn broken(&mut self, keys: &[&str], message: String) {
        self.0.push(Violation { keys: keys.iter().map(|key| (*key).to_owned()).collect(), message });
    }

    fn require(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.broken(&[key], message());
        }
    }

    fn ranges(&mut self, config: &Config) {
        let (shown, defaults) = (config.shown(), Config::default().shown());
        for key in Schema::of::<Config>().keys() {
            let value_in = |table| key.path.split('.').try_fold(table, |value: &Value, part| value.get(part));
            let value = value_in(&shown);
            if let (Some(Value::Integer(found)), Some(range)) = (value, &key.range)
                && !range.contains(found)
            {
                self.broken(&[&key.path], refusal(key, &found.to_string()));
            }
            if let (Some(Value::String(path)), Kind::Path) = (value, key.kind) {
                // Where the default is no file, no file is a value.
                let may_be_empty = value_in(&defaults) == value;
                self.require(!path.is_empty() || may_be_empty, &key.path, || {
                    "is empty; name a file".to_owned()
                });
            }
        }
    }

    /// `small` must not be more than `large`.
    fn at_most(&mut self, small: (&str, u128), large: (&str, u128)) {
        if small.1 > large.1 {
            let (small_key, small) = small;
            let (large_key, large) = large;
            let message =
                format!("found {small}, more than {large_key} = {large}; lower it or raise {large_key}");
            self.broken(&[small_key, large_key], message);
        }
    }

    fn gateway(&mut self, Gateway { tls, limits, .. }: &Gateway) {
        self.at_most(
            ("gateway.limits.packet_bytes_max", limits.packet_bytes_max as u128),
            ("gateway.limits.inflight_bytes_max", limits.inflight_bytes_max as u128),
        );
        self.at_most(
            ("gateway.limits.packet_bytes_max", limits.packet_bytes_max as u128),
            ("gateway.limits.unfinished_bytes_max", limits.unfinished_bytes_max as u128),
        );
        let named = |path: &std::path::PathBuf| path != Path::new("");
        self.require(tls.crl_files.iter().all(named), "gateway.tls.crl_files", || {
            "has an empty path; name a file, or remove it".to_owned()
        });
    }

    fn kafka(&mut self, kafka: &Kafka) {
        let Kafka { brokers, topic_prefix, replication_factor, properties } = kafka;
        if let Err(why) = check_brokers(brokers) {
            let message =
                format!("found {}: {why}; write host:port, several separated by commas", quote(brokers));
            self.broken(&["kafka.brokers"], message);
        }
        let legal = topic_prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        self.require(legal, "kafka.topic_prefix", || {
            format!("found {}; topic names have only letters, digits, `.`, `_` and `-`", quote(topic_prefix))
        });
        let length_max = TOPIC_NAME_BYTES_MAX - OWN_TOPIC_NAME_BYTES_MAX;
        self.require(topic_prefix.len() <= length_max, "kafka.topic_prefix", || {
            format!("is {} bytes long; must be at most {length_max}", topic_prefix.len())
        });
        self.require(*replication_factor != 0, "kafka.replication_factor", || {
            "found 0; must be 1 or more, or -1 for the broker's default".to_owned()
        });
        for name in properties.keys() {
            let key = format!("kafka.properties.{name}");
            if let Some(why) = properties::forbidden(name) {
                self.broken(&[&key], format!("cannot be changed: {why}; remove it"));
            }
            let legal = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            self.require(legal, &key, || "is no name of a librdkafka property; remove it".to_owned());
        }
    }

    fn bridge(&mut self, bridge: &Bridge) {
        if bridge.linger_ms >= bridge.delivery_timeout_ms {
            let message = format!(
                "found {}, not less than bridge.delivery_timeout_ms = {}; a record would time out while it waits for \
                 others: lower it",
                bridge.linger_ms, bridge.delivery_timeout_ms
            );
            self.broken(&["bridge.linger_ms", "bridge.delivery_timeout_ms"], message);
        }
        self.at_most(
            ("bridge.reading_bytes_max", bridge.reading_bytes_max as u128),
            ("bridge.queue_bytes_max", bridge.queue_bytes_max as u128),
        );
    }

    fn writer(&mut self, writer: &Writer) {
        self.require(!writer.group.trim().is_empty(), "writer.group", || {
            "is empty; name a consumer group, such as penstock-storage-writer".to_owned()
        });
        self.at_most(
            ("writer.backoff_min_ms", u128::from(writer.backoff_min_ms)),
            ("writer.backoff_max_ms", u128::from(writer.backoff_max_ms)),
        );
    }

    fn alerts(&mut self, alerts: &Alerts) {
        self.require(!alerts.group.trim().is_empty(), "alerts.group", || {
            "is empty; name a consumer group, such as penstock-alerts".to_owned()
        });
        self.at_most(
            ("alerts.backoff_min_ms", u128::from(alerts.backoff_min_ms)),
            ("alerts.backoff_max_ms", u128::from(alerts.backoff_max_ms)),
        );
    }

    fn clickhouse(&mut self, clickhouse: &ClickHouse) {
        let ClickHouse { url, database, user, cluster, .. } = clickhouse;
        if let Err(why) = check_url(url, CLICKHOUSE_URL) {
            self.broken(&["clickhouse.url"], why);
        }
        let has_query = url.contains('?') && check_url(url, CLICKHOUSE_URL).is_ok();
        self.require(!has_query, "clickhouse.url", || {
            format!("found {}, which has a query; remove everything from the question mark on", quote(url))
        });
        self.require(is_identifier(database), "clickhouse.database", || {
            format!("found {}; must be letters, digits and underscores, not a digit first", quote(database))
        });
        self.require(!user.is_empty(), "clickhouse.user", || {
            "is empty; name a user, such as default".to_owned()
        });
        let legal = cluster.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        self.require(legal, "clickhouse.cluster", || {
            format!(
                "found {}; must be letters, digits, `.`, `_` and `-`, or empty for a single node",
                quote(cluster)
            )
        });
    }

    fn notify(&mut self, notify: &Notify) {
        for (key, url, hint) in [
            ("notify.alertmanager_url", &notify.alertmanager_url, ALERTMANAGER_URL),
            ("notify.webhook_url", &notify.webhook_url, WEBHOOK_URL),
        ] {
            if let Err(why) = check_url(url, hint)
                && !url.is_empty()
            {
                self.broken(&[key], why);
            }
        }
        self.require(!notify.alertmanager_url.contains('?'), "notify.alertmanager_url", || {
            "has a query; remove everything from the question mark on".to_owned()
        });
        for (key, secret) in [
            ("notify.alertmanager_authorization", &notify.alertmanager_authorization),
            ("notify.webhook_authorization", &notify.webhook_authorization),
        ] {
            let legal = !secret.expose().bytes().any(|byte| byte.is_ascii_control());
            self.require(legal, key, || {
                "holds a line break or a control character, which no header can carry".to_owned()
            });
        }
        self.require(!notify.group.trim().is_empty(), "notify.group", || {
            "is empty; name consumer groups, such as penstock-notify".to_owned()
        });
        self.at_most(
            ("notify.backoff_min_ms", u128::from(notify.backoff_min_ms)),
            ("notify.backoff_max_ms", u128::from(notify.backoff_max_ms)),
        );
        let (resend, expire) = (notify.alertmanager_resend_ms, notify.alertmanager_expire_ms);
        if resend.saturating_mul(2) > expire {
            let message = format!(
                "found {expire}, less than twice notify.alertmanager_resend_ms = {resend}; alerts would count as \
                 resolved between two requests: raise it"
            );
            self.broken(&["notify.alertmanager_expire_ms", "notify.alertmanager_resend_ms"], message);
        }
    }

    fn telemetry(&mut self, telemetry: &Telemetry) {
        if let Err(why) = check_filter(&telemetry.log_level) {
            let message = format!(
                "found {}: {why}; write error, warn, info, debug, trace or off, and module=level for modules: \
                 info,penstock_gateway=debug",
                quote(&telemetry.log_level)
            );
            self.broken(&["telemetry.log_level"], message);
        }
    }

    fn listeners(&mut self, config: &Config) {
        let (devices, admin) = (config.gateway.listen, config.telemetry.admin_listen);
        let overlap =
            devices.ip() == admin.ip() || devices.ip().is_unspecified() || admin.ip().is_unspecified();
        if devices.port() == admin.port() && devices.port() != 0 && overlap {
            let message =
                format!("found {admin}, which collides with gateway.listen = {devices}; use another port");
            self.broken(&["telemetry.admin_listen", "gateway.listen"], message);
        }
    }
}

fn check_brokers(brokers: &str) -> Result<(), &'static str> {
    if brokers.trim().is_empty() {
        return Err("names no broker");
    }
    for broker in brokers.split(',').map(str::trim) {
        // librdkafka takes SSL://host:port, too.
        let address = broker.split_once("://").map_or(broker, |(_, address)| address);
        let (host, port) = match address.rsplit_once(':') {
            // An IPv6 address without a port ends in a bracket.
            Some((host, port)) if !address.ends_with(']') => (host, Some(port)),
            _ => (address, None),
        };
        if host.is_empty() {
            return Err("a broker has no host");
        }
        if host.contains(|character: char| character.is_whitespace() || "/@\"'".contains(character)) {
            return Err("a host has a character that host names do not have");
        }
        if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
            return Err("a port is not a number from 1 to 65535");
        }
    }
    Ok(())
}

/// What to say of a URL: what it looks like, and where user and password belong.
#[derive(Clone, Copy)]
struct UrlHint {
    example: &'static str,
    credentials: &'static str,
}

const CLICKHOUSE_URL: UrlHint = UrlHint {
    example: "write it like http://127.0.0.1:8123",
    credentials: "clickhouse.user and clickhouse.password",
};
const ALERTMANAGER_URL: UrlHint = UrlHint {
    example: "write it like http://127.0.0.1:9093",
    credentials: "notify.alertmanager_authorization",
};
const WEBHOOK_URL: UrlHint = UrlHint {
    example: "write it like http://127.0.0.1:8080/alerts",
    credentials: "notify.webhook_authorization",
};

/// Never repeats the address if it may hold a password.
fn check_url(url: &str, UrlHint { example, credentials }: UrlHint) -> Result<(), String> {
    if url.contains('@') {
        return Err(format!("has a user or a password in it; use {credentials}"));
    }
    let found = quote(url);
    let uri: Uri = url.parse().map_err(|why| format!("found {found}: {why}; {example}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("found {found}, which is neither http:// nor https://; {example}"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(format!("found {found}, which has no host; {example}"));
    }
    let port =
        uri.authority().and_then(|authority| authority.as_str().rsplit_once(':')).map(|(_, port)| port);
    let in_brackets = uri.authority().is_some_and(|authority| authority.as_str().ends_with(']'));
    if !in_brackets && port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err(format!("found {found}, whose port is not a number from 1 to 65535; {example}"));
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.len() <= 64
}

fn check_filter(filter: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    if filter.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    parse_filter(filter).map_err(|why| why.to_string())?;
    // The parser takes a single word that is no level for a module, so that `inof` would turn everything else
    // off.
    let bare = |word: &&str| !word.is_empty() && !word.contains(['=', '[', ']', '{', '}', ':']);
    let mut words = filter.split(',').map(str::trim).filter(bare);
    if filter.contains('[') {
        return Ok(());
    }
    match words.find(|word| {
        !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) && word.parse::<u8>().is_err()
    }) {
        None => Ok(()),
        Some(word) => {
            let hint = closest(word, LEVELS.into_iter()).map(|level| format!(", did you mean {level}?"));
            Err(format!("{} is no level{}", quote(word), hint.unwrap_or_default()))
        }
    }
}
