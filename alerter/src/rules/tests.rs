use std::fs;

use super::*;

fn parse(text: &str) -> Result<RuleSet, RulesError> {
    RuleSet::parse("rules.toml", text, Path::new("/nowhere"))
}

fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().problems().iter().map(ToString::to_string).collect()
}

/// The only problem of a rule with these keys, without its place.
fn problem(keys: &str) -> String {
    let problems = problems(&format!("[rules.r]\n{}", keys.replace("; ", "\n")));
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].clone()
}

#[test]
fn the_default_rules_are_good() {
    let set = parse(RuleSet::default_text()).unwrap();
    let names: Vec<&str> = set.rules().iter().map(Rule::name).collect();
    assert_eq!(names, ["SUSTAINED_HIGH_TEMPERATURE", "LOW_BATTERY"]);
    assert_eq!(set.metrics(), [MetricName::Temperature, MetricName::BatteryLevel]);
    assert_eq!(set.tracks().len(), 3, "a low battery has two levels");
    let default: Vec<String> = RuleSet::default_rules().rules().iter().map(Rule::condition).collect();
    assert_eq!(
        default,
        ["5 readings above 80 within 5m", "warning below 10, critical below 5, hysteresis 2"]
    );
}

#[test]
fn the_example_file_is_good_and_shows_every_kind_and_modifier() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rules.toml");
    let set = RuleSet::load(&path).unwrap_or_else(|error| panic!("{error}"));
    let mut kinds: Vec<&str> = set.rules().iter().map(Rule::kind).collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["for", "low-battery", "n-of-m", "no-data", "rate-of-change", "sustained", "threshold"]
    );
    let modifiers: String = set.rules().iter().map(Rule::modifiers).collect();
    for modifier in ["keep-firing", "flapping", "repeat-every", "on-late"] {
        assert!(modifiers.contains(modifier), "{modifier}");
    }
}

#[test]
fn every_problem_is_reported_with_its_line_and_what_would_be_right() {
    let text = "\
[rules.hot]
kind = \"treshold\"

[rules.warm]
kind = \"threshold\"
metric = \"temperatur\"
abov = 30
severity = \"criticl\"

[rules.wet]
kind = \"sustained\"
metric = \"humidity\"
above = 90
clear = 80
count = 0
window = \"0s\"
text = \"{valeu}\"
[rule.x]
";
    assert_eq!(
        problems(text),
        [
            "rules.toml:2: rules.hot.kind: found \"treshold\"; must be one of threshold, sustained, low-battery, for, \
             n-of-m, rate-of-change, no-data (did you mean threshold?)",
            "rules.toml:4: rules.warm: needs one of the keys above and below: the limit",
            "rules.toml:6: rules.warm.metric: found \"temperatur\"; did you mean temperature?",
            "rules.toml:7: rules.warm.abov: unknown key; did you mean above?",
            "rules.toml:8: rules.warm.severity: found \"criticl\"; must be one of info, warning, critical (did you mean \
             critical?)",
            "rules.toml:14: rules.wet.clear: is no key of kind sustained; its keys are severity, above, below, count, \
             window, kind, metric, devices, device-group, text, keep-firing, flapping, repeat-every, on-late",
            "rules.toml:15: rules.wet.count: found 0; must be a whole number from 1 to 1000",
            "rules.toml:16: rules.wet.window: found \"0s\"; must be a duration from 1ms to 366d, such as \"90s\", \
             \"5m\" or \"1h30m\"",
            "rules.toml:17: rules.wet.text: has an unknown placeholder {valeu}; did you mean {value}?",
            "rules.toml:18: rule: unknown key; did you mean rules?",
        ]
    );
}

#[test]
fn impossible_values_are_refused() {
    let limit = "kind = \"threshold\"; metric = \"temperature\"; above = 80; ";
    assert!(problem(&format!("{limit}clear = 81")).contains("wrong side of above = 80"));
    assert!(
        problem("kind = \"threshold\"; metric = \"temperature\"; below = 5; clear = 4")
            .contains("wrong side")
    );
    assert!(
        problem("kind = \"threshold\"; metric = \"temperature\"; above = nan").contains("must be a number")
    );
    assert!(
        problem("kind = \"threshold\"; metric = \"temperature\"; above = -inf").contains("must be a number")
    );
    assert!(problem(&format!("{limit}below = 3")).contains("keep one of them"));
    let n_of_m = "kind = \"n-of-m\"; metric = \"pressure\"; above = 1; ";
    assert!(problem(&format!("{n_of_m}n = 4; m = 3")).contains("is 4 of 3"));
    assert!(problem("kind = \"low-battery\"; warning = 5; critical = 10").contains("not below warning"));
    assert!(problem("kind = \"low-battery\"; hysteresis = -1").contains("is negative"));
    assert!(problem("kind = \"no-data\"; for = \"1m\"; on-late = { allow = \"1m\" }").contains("no meaning"));
    assert!(
        problem(&format!("{limit}flapping = {{ flips = 0, window = \"1m\" }}")).contains("from 1 to 100")
    );
    assert!(
        problem(&format!("{limit}flapping = {{ flip = 1, flips = 1, window = \"1m\" }}"))
            .contains("mean flips?")
    );
    assert!(problem(&format!("{limit}flapping = {{ flips = 1 }}")).contains("needs the key window"));
    assert!(problem(&format!("{limit}repeat-every = 5")).contains("must be a duration"));
    assert!(problem(&format!("{limit}keep-firing = \"-5m\"")).contains("must be a duration"));
    assert!(problem(&format!("{limit}devices = []")).contains("is empty"));
    assert!(problem(&format!("{limit}devices = [\"x\"]")).contains("not a device id"));
    assert!(problem(&format!("{limit}device-group = \"gone\"")).contains("cannot be read"));
    assert!(problem("metric = \"temperature\"").contains("needs the key kind"));
}

#[test]
fn duplicate_names_and_broken_syntax_are_refused_with_their_line() {
    let rule = "kind = \"low-battery\"\n";
    let twice = problems(&format!("[rules.a]\n{rule}\n[rules.a]\n{rule}"));
    assert_eq!(twice.len(), 1, "{twice:?}");
    assert!(twice[0].starts_with("rules.toml:4: a is there before"), "{twice:?}");
    assert!(problems("[rules.a]\nkind = \n")[0].starts_with("rules.toml:2: "));
    assert!(problems("")[0].contains("has no rules"));
    assert!(problems("rules = 1")[0].contains("write a table a rule"));
    assert!(problems(&format!("[rules.\"a b\"]\n{rule}"))[0].contains("names of rules are"));
}

#[test]
fn sizes_are_limited() {
    let many: String = (0..=RULES_MAX).map(|n| format!("[rules.r{n}]\nkind = \"low-battery\"\n")).collect();
    assert!(problems(&many)[0].contains("at most 1000"));
    let large: String = (0..40)
        .map(|n| {
            format!("[rules.r{n}]\nkind = \"sustained\"\nmetric = \"pressure\"\nabove = 1\ncount = 1000\nwindow = \"1h\"\n")
        })
        .collect();
    assert!(problems(&large)[0].contains("bytes of state a device"));
    let errors: String = (0..150).map(|n| format!("[rules.r{n}]\nkind = 1\n")).collect();
    let error = parse(&errors).unwrap_err();
    assert_eq!((error.problems().len(), error.len()), (100, 150));
    assert!(error.to_string().ends_with("... and 50 more"));
}

#[test]
fn device_groups_are_read_relative_to_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    let id = "0a1b2c3d-0000-4000-8000-0123456789ab";
    fs::write(folder.path().join("ovens"), format!("# ovens\n{id} # the first\r\n\n")).unwrap();
    fs::write(folder.path().join("broken"), format!("{id}\nnot an id\n")).unwrap();
    fs::write(folder.path().join("empty"), "# nobody\n").unwrap();
    let rule = |name: &str, group: &str| {
        format!("[rules.{name}]\nkind = \"low-battery\"\ndevice-group = \"{group}\"\n")
    };
    let file = folder.path().join("rules.toml");
    fs::write(&file, rule("a", "ovens")).unwrap();
    let set = RuleSet::load(&file).unwrap();
    assert_eq!(set.rules()[0].devices(), "1 in ovens");
    assert!(set.rules()[0].scope().contains(&id.parse().unwrap()));
    fs::write(&file, rule("a", "broken") + &rule("b", "broken") + &rule("c", "empty")).unwrap();
    let error = RuleSet::load(&file).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 2, "a file that is used twice is reported once: {error}");
    assert!(error.contains("broken:2: found \"not an id\": not a device id"), "{error}");
    assert!(error.contains("empty: names no device"), "{error}");
    assert!(
        RuleSet::load(&folder.path().join("no.toml")).unwrap_err().to_string().contains("cannot be read")
    );
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(RuleSet::load(&file).unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn a_fingerprint_says_whether_state_can_be_kept() {
    let fingerprint = |keys: &str| {
        let text = format!("[rules.r]\nkind = \"threshold\"\nmetric = \"pressure\"\n{keys}");
        parse(&text).unwrap().tracks()[0].fingerprint
    };
    let plain = fingerprint("above = 80");
    assert_eq!(plain, fingerprint("above = 80.0\nclear = 80\nseverity = \"warning\""));
    assert_eq!(plain, fingerprint("above = 80\ntext = \"other\""), "text has no part in it");
    let scoped = "above = 80\ndevices = [\"0a1b2c3d-0000-4000-8000-0123456789ab\"]";
    assert_eq!(plain, fingerprint(scoped), "a group that grows ends no episodes");
    for other in [
        "above = 81",
        "below = 80",
        "above = 80\nclear = 1",
        "above = 80\nseverity = \"info\"",
        "above = 80\nkeep-firing = \"1s\"",
    ] {
        assert_ne!(plain, fingerprint(other), "{other}");
    }
}

#[test]
fn limits_of_single_precision_metrics_are_in_single_precision() {
    let text = "[rules.r]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 80.3\n";
    let Test::Level { limit, .. } = parse(text).unwrap().tracks()[0].test else { panic!("a level") };
    assert!(!Side::Above.is_met(f64::from(80.3f32), limit));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(\\[rules\\.[a-z\"]{0,3}\\]\n|kind = \"(for|no-data|x)\"\n|above = [0-9na.-]{0,4}\n|[a-z={}\" ]{0,12}\n){0,12}") {
        let _ = parse(&text);
    }
}
