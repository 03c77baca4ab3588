//! Values that are impossible, alone or together.

use super::*;

/// What is said of one line; empty if it is accepted.
fn said(line: &str) -> String {
    load(line, &[], &[]).map_or_else(|errors| errors.to_string(), |_| String::new())
}

#[test]
fn zero_is_no_limit() {
    let schema = Schema::of::<Config>();
    let mut checked = 0;
    for key in schema.keys().filter(|key| key.kind == section::Kind::Integer) {
        let allowed = matches!(key.path.as_str(), "bridge.linger_ms");
        let found = said(&format!("{} = 0", key.path));
        assert_eq!(found.is_empty(), allowed, "{}: {found}", key.path);
        checked += 1;
    }
    assert!(checked > 25, "only {checked} keys are numbers");
}

#[test]
fn both_ends_of_every_range_fit_the_type_of_the_key() {
    let schema = Schema::of::<Config>();
    for key in schema.keys() {
        let Some(range) = &key.range else { continue };
        for end in [range.start(), range.end()] {
            let found = said(&format!("{} = {end}", key.path));
            assert!(!found.contains("defect") && !found.contains("whole number"), "{found}");
        }
    }
}

#[test]
fn limits_within_limits_must_fit() {
    assert_eq!(
        said("gateway.limits.packet_bytes_max = 2097152"),
        "penstock.toml:1: gateway.limits.packet_bytes_max: found 2097152, more than \
         gateway.limits.inflight_bytes_max = 1048576; lower it or raise gateway.limits.inflight_bytes_max"
    );
    // The key to blame has its default: the line is that of the key that was set.
    assert_eq!(
        said("\ngateway.limits.inflight_bytes_max = 65536"),
        "penstock.toml:2: gateway.limits.packet_bytes_max: found 1048576, more than \
         gateway.limits.inflight_bytes_max = 65536; lower it or raise gateway.limits.inflight_bytes_max"
    );
    assert!(said("gateway.limits.unfinished_bytes_max = 65536").contains("packet_bytes_max"));
    assert!(said("writer = { backoff_min_ms = 500, backoff_max_ms = 400 }").contains("found 500, more than"));
    assert!(said("bridge = { linger_ms = 1000, delivery_timeout_ms = 1000 }").contains("would time out"));
    assert!(said("bridge = { reading_bytes_max = 65537, queue_bytes_max = 65536 }").contains("more than"));
}

#[test]
fn brokers_are_hosts_and_ports() {
    for brokers in
        ["kafka", "kafka:9092", "a:1,b:2", "a:1, b:2", "[::1]:9092", "[::1]", "SASL_SSL://kafka:9093"]
    {
        assert_eq!(said(&format!("kafka.brokers = '{brokers}'")), "");
    }
    for (brokers, why) in [
        ("", "names no broker"),
        (" ", "names no broker"),
        ("a:1,", "a broker has no host"),
        (":9092", "a broker has no host"),
        ("a:0", "a port is not a number"),
        ("a:65536", "a port is not a number"),
        ("a:x", "a port is not a number"),
        ("a b:1", "a host has a character"),
        ("http://a:1/x", "a port is not a number"),
    ] {
        let found = said(&format!("kafka.brokers = '{brokers}'"));
        assert!(found.contains(why) && found.contains("write host:port"), "{brokers:?}: {found}");
    }
}

#[test]
fn properties_that_carry_a_guarantee_are_refused() {
    assert_eq!(
        said("[kafka.properties]\nacks = 1\n'enable.idempotence' = false"),
        "penstock.toml:2: kafka.properties.acks: cannot be changed: a PUBACK promises the record on every in-sync \
         replica (G1); remove it\n\
         penstock.toml:3: kafka.properties.enable.idempotence: cannot be changed: without it a retry can store a \
         record twice or out of order (G2); remove it"
    );
    for (name, _) in properties::all_forbidden() {
        let variable = environment::name_of(&format!("kafka.properties.{name}"));
        let found = errors("", &[(&variable, "x")], &[]);
        assert!(found.contains("cannot be changed") && found.starts_with("environment "), "{found}");
    }
    assert!(said("[kafka.properties]\n'' = 'x'").contains("no name of a librdkafka property"));
}

#[test]
fn topic_prefixes_are_legal_topic_names() {
    assert_eq!(said("kafka.topic_prefix = 'test-1_a.'"), "");
    assert!(said("kafka.topic_prefix = 'a/b'").contains("topic names have only"));
    assert!(said(&format!("kafka.topic_prefix = '{}'", "a".repeat(186))).contains("186 bytes"));
    assert!(said("kafka.replication_factor = 0").contains("-1 for the broker's default"));
}

#[test]
fn urls_are_http_or_https() {
    for url in
        ["http://127.0.0.1:8123", "https://ch.example:8443/", "http://ch", "http://[::1]:8123", "http://a/b"]
    {
        assert_eq!(said(&format!("clickhouse.url = '{url}'")), "", "{url}");
    }
    for (url, why) in [
        ("", "empty string"),
        ("127.0.0.1:8123", "neither http:// nor https://"),
        ("tcp://127.0.0.1:9000", "neither http:// nor https://"),
        ("/only/a/path", "neither http:// nor https://"),
        ("http://", "write it like"),
        ("http://a:b", "write it like"),
        ("http://a:99999", "write it like"),
        ("http://a:0", "port is not a number"),
        ("http://a/?database=x", "has a query"),
        ("http://u:p@a", "use clickhouse.user and clickhouse.password"),
    ] {
        let found = said(&format!("clickhouse.url = '{url}'"));
        assert!(found.contains(why), "{url:?}: {found}");
    }
}

#[test]
fn names_that_go_into_sql_are_plain() {
    assert_eq!(said("clickhouse.database = '_test_1'"), "");
    for name in ["", "1a", "a-b", "a`b", "a.b", "ä"] {
        assert!(
            said(&format!("clickhouse.database = '{name}'")).contains("letters, digits and underscores"),
            "{name}"
        );
    }
    assert_eq!(said("clickhouse.cluster = 'main-1'"), "");
    assert!(said("clickhouse.cluster = \"x' ON\"").contains("or empty for a single node"));
    assert!(said("clickhouse.user = ''").contains("name a user"));
    assert!(said("writer.group = ''").contains("name a consumer group"));
    assert!(said("gateway.tls.key_file = ''").contains("name a file"));
    assert!(said("gateway.tls.crl_files = ['']").contains("empty path"));
}

#[test]
fn log_filters_parse() {
    for level in
        ["debug", "WARN", "off", "info,penstock_gateway=debug", "warn,hyper::proto=off", "[conn{id=1}]=trace"]
    {
        assert_eq!(said(&format!("telemetry.log_level = '{level}'")), "", "{level}");
    }
    for level in ["", "inof", "info,a=loud", "info,penstock_gateway", "[", "a=b=c"] {
        assert!(said(&format!("telemetry.log_level = '{level}'")).contains("module=level"), "{level}");
    }
    assert!(said("telemetry.log_level = 'inof'").contains("did you mean info?"));
}

#[test]
fn the_two_listeners_do_not_collide() {
    assert!(said("telemetry.admin_listen = '127.0.0.1:8883'").contains("collides with gateway.listen"));
    assert_eq!(said("gateway.listen = '10.0.0.1:9464'"), "");
    assert_eq!(said("gateway.listen = '127.0.0.1:0'\ntelemetry.admin_listen = '127.0.0.1:0'"), "");
}

#[test]
fn receivers_of_alerts_have_addresses_that_requests_can_go_to() {
    assert_eq!(said("notify.webhook_url = 'https://hooks.example/x?token=1'"), "");
    for (line, expected) in [
        ("notify.webhook_url = 'hooks.example'", "write it like http://127.0.0.1:8080/alerts"),
        ("notify.webhook_url = 'http://me:pw@hooks.example'", "use notify.webhook_authorization"),
        ("notify.alertmanager_url = 'http://a:9093/?x=1'", "has a query"),
        ("notify.alertmanager_authorization = \"a\\nb\"", "holds a line break"),
        ("notify.group = ' '", "is empty; name consumer groups"),
        ("notify.backoff_min_ms = 60000", "more than notify.backoff_max_ms = 30000"),
        ("notify.alertmanager_expire_ms = 100000", "less than twice notify.alertmanager_resend_ms = 60000"),
    ] {
        let found = said(line);
        assert!(found.contains(expected), "{line}: {found}");
    }
}

#[test]
fn a_configuration_made_by_a_program_is_checked_by_the_same_rules() {
    let mut config = Config::default();
    config.gateway.limits.inflight_max = 0;
    config.writer.batch_age_ms_max = u64::MAX;
    config.kafka.brokers.clear();
    let broken: Vec<String> = config.validate().iter().map(ToString::to_string).collect();
    assert_eq!(broken[0], "gateway.limits.inflight_max: found 0; must be a whole number from 1 to 65535");
    assert!(
        broken[1].starts_with("writer.batch_age_ms_max: found 9223372036854775807; must be"),
        "{broken:?}"
    );
    assert!(broken[2].starts_with("kafka.brokers: found \"\""), "{broken:?}");
    assert_eq!(broken.len(), 3);
}
