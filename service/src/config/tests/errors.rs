//! Every error is reported, with its origin, what was found and what to do.

use std::fs;

use proptest::prelude::*;

use super::*;

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let file = r#"
[gateway]
listen = "localhost:8883"
lissten = 1

[gateway.limits]
inflight_max = 0
packet_bytes_max = 268435456
topic_bytes_max = "many"

[kafka]
brokers = 9092

[telemtry]
log_level = "info"
"#;
    let env = [("PENSTOCK_BRIDGE__COMPRESSION", "lz5"), ("PENSTOCK_KAFKA_BROKERS", "x:1")];
    let flags = [("writer.batch_age_ms_max", "0"), ("writer", "x"), ("wrighter.group", "x")];
    let expected = "\
penstock.toml:3: gateway.listen: found \"localhost:8883\"; must be an IP address and a port, such as 0.0.0.0:8883
penstock.toml:4: gateway.lissten: unknown key; did you mean gateway.listen?
penstock.toml:7: gateway.limits.inflight_max: found 0; must be a whole number from 1 to 65535
penstock.toml:8: gateway.limits.packet_bytes_max: found 268435456; must be a whole number from 256 to 4128768
penstock.toml:9: gateway.limits.topic_bytes_max: found \"many\"; must be a whole number from 64 to 65535
penstock.toml:12: kafka.brokers: found 9092; must be a text in quotes
penstock.toml:14: telemtry: unknown key; did you mean telemetry?
environment PENSTOCK_BRIDGE__COMPRESSION: bridge.compression: found \"lz5\"; must be one of lz4, none, zstd, snappy, gzip (did you mean lz4?)
environment PENSTOCK_KAFKA_BROKERS: unknown environment variable; did you mean PENSTOCK_KAFKA__BROKERS?
flag --set writer.batch_age_ms_max: writer.batch_age_ms_max: found \"0\"; must be a whole number from 1 to 600000
flag --set writer: writer: is a section: set a key in it
flag --set wrighter.group: wrighter.group: unknown key; did you mean writer.group?";
    assert_eq!(errors(file, &env, &flags), expected);
}

#[test]
fn a_wrong_type_says_which_is_right() {
    let wrong = |text: &str| errors(text, &[], &[]);
    let number = "; must be a whole number from 1 to 65536";
    assert_eq!(
        wrong("gateway.tls.handshakes_max = 1.5"),
        format!("penstock.toml:1: gateway.tls.handshakes_max: found 1.5{number}")
    );
    assert_eq!(
        wrong("gateway.tls.handshakes_max = 99999999999999999999"),
        format!("penstock.toml:1: gateway.tls.handshakes_max: found 99999999999999999999{number}")
    );
    assert_eq!(
        wrong("gateway.tls.crl_files = 'a.crl'"),
        "penstock.toml:1: gateway.tls.crl_files: found \"a.crl\"; must be a list of paths, such as [\"one.pem\", \"two.pem\"]"
    );
    assert_eq!(
        wrong("gateway.tls.crl_files = ['a.crl', 1]"),
        "penstock.toml:1: gateway.tls.crl_files: found a list; must be a list of paths, such as [\"one.pem\", \"two.pem\"]"
    );
    assert_eq!(wrong("gateway = 1"), "penstock.toml:1: gateway: is a section: set a key in it");
    assert_eq!(
        wrong("[[gateway]]"),
        "penstock.toml:1: gateway: is a single section: write [gateway], not [[gateway]]"
    );
    assert_eq!(
        wrong("'gateway.listen' = '0.0.0.0:1'"),
        "penstock.toml:1: gateway.listen: is taken as a single name: write it without quotes"
    );
    assert_eq!(
        wrong("[gateway.listen]"),
        "penstock.toml:1: gateway.listen: found a section; must be an IP address and a port, such as 0.0.0.0:8883"
    );
    assert_eq!(
        wrong("telemetry.log_format = 2026-01-01"),
        "penstock.toml:1: telemetry.log_format: found 2026-01-01; must be one of auto, human, json"
    );
    assert_eq!(
        wrong("[kafka.properties]\na.b = []"),
        "penstock.toml:2: kafka.properties.a.b: found a list; write the value as a text in quotes"
    );
    assert_eq!(
        wrong("[kafka.properties]\na.b = 'x'\n'a.b' = 'y'"),
        "penstock.toml:3: kafka.properties.a.b: is given twice, with and without quotes: keep one"
    );
}

#[test]
fn unknown_keys_far_from_any_point_to_the_reference() {
    assert_eq!(
        errors("zzz = 1", &[], &[]),
        "penstock.toml:1: zzz: unknown key; see the reference of all keys, docs/CONFIGURATION.md"
    );
}

#[test]
fn syntax_errors_have_line_and_column_and_do_not_hide_other_layers() {
    let text = "[gateway]\nlisten = \"0.0.0.0:8883\n\n[kafka]\nbrokers = = \"x\"\n";
    let found = errors(text, &[("PENSTOCK_NO__SUCH", "1")], &[]);
    assert!(found.starts_with("penstock.toml:2:"), "{found}");
    assert!(found.contains("\npenstock.toml:5:11: "), "{found}");
    assert!(found.contains("\nenvironment PENSTOCK_NO__SUCH: unknown environment variable"), "{found}");
}

#[test]
fn a_key_given_twice_is_a_syntax_error() {
    let found = errors("[kafka]\nbrokers = 'a:1'\nbrokers = 'b:1'\n", &[], &[]);
    assert!(found.starts_with("penstock.toml:3:1: duplicate key"), "{found}");
}

#[test]
fn secrets_are_not_in_errors() {
    for text in [
        "clickhouse.password = 12345",
        "clickhouse.password = ['12345']",
        "clickhouse.url = 'http://me:12345@localhost:8123'",
        "clickhouse.url = 'nonsense me:12345@localhost:8123'",
        "kafka.properties.'sasl.password' = 0x12345",
        "kafka.properties.'sasl.password' = ['12345']",
    ] {
        let found = errors(text, &[], &[]);
        assert!(!found.contains("12345"), "{found}");
    }
    for path in ["clickhouse.passwort", "kafka.propertys.sasl.password"] {
        let found = errors("", &[], &[(path, "12345")]);
        assert!(!found.contains("12345"), "{found}");
    }
}

#[test]
fn long_values_are_cut_and_control_characters_escaped() {
    let found = errors(&format!("gateway.listen = \"\\u001b[2J{}\"", "x".repeat(100_000)), &[], &[]);
    assert!(found.len() < 300, "{}", found.len());
    assert!(!found.contains('\u{1b}'));
}

#[test]
fn errors_beyond_a_hundred_are_counted() {
    let text: String = (0..5_000).map(|index| format!("nonsense_{index} = 1\n")).collect();
    let found = load(&text, &[], &[]).unwrap_err();
    assert_eq!(found.len(), 5_000);
    assert_eq!(found.iter().count(), ConfigErrors::SHOWN_MAX);
    assert!(found.to_string().ends_with("\n... and 4900 more"));
    assert!(found.to_string().starts_with("penstock.toml:1: nonsense_0: unknown key;"));
}

#[test]
fn a_file_that_cannot_be_used_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("penstock.toml");
    let load = || Config::load(Some(&path), std::iter::empty(), &[]).unwrap_err().to_string();
    let name = path.display();
    assert_eq!(
        load(),
        format!(
            "{name}: cannot be read (No such file or directory (os error 2)); name an existing file, or none to use \
             the defaults"
        )
    );
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(load(), format!("{name}: has more than 1048576 bytes; is this the right file?"));
    fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
    assert!(Config::load(Some(&path), std::iter::empty(), &[]).is_ok());
    fs::write(&path, b"# a\n# b \xff\n").unwrap();
    assert_eq!(load(), format!("{name}:2: is not UTF-8 text from here on; save it as UTF-8"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(load().contains("cannot be read (Is a directory"), "{}", load());
}

#[test]
fn a_missing_file_does_not_hide_other_errors() {
    let flags = pairs(&[("no.such", "1")]);
    let found = Config::load(Some(Path::new("no/such.toml")), std::iter::empty(), &flags).unwrap_err();
    assert_eq!(found.len(), 2);
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for text in [
        format!("x = {}", "[".repeat(200_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("[{}a]", "a.".repeat(200_000)),
        format!("kafka.properties.{}a = 1", "a.".repeat(200_000)),
        format!("{}a = 1", "a.".repeat(200_000)),
    ] {
        assert!(load(&text, &[], &[]).is_err());
    }
}

/// Text that looks like a configuration: real keys, real and wrong values, broken syntax between them.
fn toml_like() -> impl Strategy<Value = String> {
    let paths: Vec<String> = Schema::of::<Config>().keys().map(|key| key.path.clone()).collect();
    let path = prop_oneof![
        prop::sample::select(paths.clone()),
        prop::sample::select(paths)
            .prop_map(|path| path.rsplit_once('.').map_or(String::new(), |(s, _)| s.into())),
        Just("kafka.properties.sasl.password".to_owned()),
        "[a-z_.\"]{0,12}",
    ];
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        any::<String>().prop_map(|text| format!("{text:?}")),
        "[0-9.:]{0,21}".prop_map(|text| format!("'{text}'")),
        prop::sample::select(vec![
            "true",
            "[]",
            "{}",
            "['a', 1]",
            "{a.b = 1}",
            "1979-05-27",
            "'''",
            "\"\\u",
            ""
        ])
        .prop_map(str::to_owned),
    ];
    let line = prop_oneof![
        4 => (path.clone(), value).prop_map(|(path, value)| format!("{path} = {value}")),
        1 => path.clone().prop_map(|path| format!("[{path}]")),
        1 => path.prop_map(|path| format!("[[{path}]]")),
        1 => any::<String>(),
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_makes_loading_panic(
        text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Config::from_text(Path::new("penstock.toml"), &text);
        let _ = Config::from_text(Path::new("penstock.toml"), &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_is_accepted_is_valid_and_what_is_refused_says_where(text in toml_like()) {
        match Config::from_text(Path::new("penstock.toml"), &text) {
            Ok(loaded) => {
                prop_assert_eq!(loaded.config.validate(), []);
                let shown = show(&loaded, false);
                prop_assert!(toml::from_str::<toml::Table>(&shown).is_ok(), "{}", shown);
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors.iter() {
                    prop_assert!(error.to_string().starts_with("penstock.toml:"), "{}", error);
                    prop_assert!(!error.message.is_empty());
                }
            }
        }
    }

    #[test]
    fn no_variable_and_no_flag_makes_loading_panic(
        env in prop::collection::vec(("PENSTOCK_[A-Z_]{0,20}", any::<String>()), 0..5),
        flags in prop::collection::vec(("[a-z._]{0,20}", any::<String>()), 0..5),
    ) {
        let _ = merge(None, env.into_iter(), &flags, None);
    }

    #[test]
    fn a_key_in_any_layer_never_panics(index: prop::sample::Index, text in any::<String>()) {
        let schema = Schema::of::<Config>();
        let paths: Vec<&str> = schema.keys().map(|key| key.path.as_str()).collect();
        let path = *index.get(&paths);
        let by_flag = load("", &[], &[(path, &text)]);
        let by_env = load("", &[(&environment::name_of(path), &text)], &[]);
        prop_assert_eq!(by_flag.map(|l| l.config).ok(), by_env.map(|l| l.config).ok());
    }
}
