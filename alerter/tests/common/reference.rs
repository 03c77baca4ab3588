//! Rules applied plainly and slowly, straight from docs/RULES.md: every reading is kept, and everything is computed anew at
//! each step. Shares no code with the engine.

use std::collections::BTreeMap;

use penstock_alerter::Raised;
use penstock_proto::v1::{AlertSeverity, AlertState};

use super::{Made, device_id};

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Threshold { above: bool, limit: f64, clear: f64 },
    Sustained { above: bool, limit: f64, count: usize, window: i64 },
    LowBattery { warning: Option<i32>, critical: Option<i32>, hysteresis: i32 },
    For { above: bool, limit: f64, hold: i64, gap: Option<i64> },
    NOfM { above: bool, limit: f64, n: usize, m: usize },
    Rate { above: bool, limit: f64, per: i64, over: i64 },
    NoData { silence: i64, any: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) metric: String,
    pub(crate) keep: i64,
    pub(crate) flapping: Option<(usize, i64)>,
    pub(crate) repeat: Option<i64>,
    pub(crate) late: i64,
    pub(crate) devices: Option<Vec<u8>>,
}

impl Rule {
    pub(crate) fn to_toml(&self) -> String {
        let mut lines = vec![format!("[rules.{}]", self.name)];
        let side = |above: bool, limit: f64| format!("{} = {limit:?}", if above { "above" } else { "below" });
        let ms = |ms: i64| format!("\"{ms}ms\"");
        let metric = format!("metric = {:?}", self.metric);
        match &self.kind {
            Kind::Threshold { above, limit, clear } => {
                lines.extend([
                    "kind = \"threshold\"".into(),
                    metric,
                    side(*above, *limit),
                    format!("clear = {clear:?}"),
                ]);
            }
            Kind::Sustained { above, limit, count, window } => lines.extend([
                "kind = \"sustained\"".into(),
                metric,
                side(*above, *limit),
                format!("count = {count}\nwindow = {}", ms(*window)),
            ]),
            Kind::LowBattery { warning, critical, hysteresis } => {
                lines.extend(["kind = \"low-battery\"".into(), format!("hysteresis = {hysteresis}")]);
                lines.extend(warning.map(|level| format!("warning = {level}")));
                lines.extend(critical.map(|level| format!("critical = {level}")));
            }
            Kind::For { above, limit, hold, gap } => {
                lines.extend([
                    "kind = \"for\"".into(),
                    metric,
                    side(*above, *limit),
                    format!("for = {}", ms(*hold)),
                ]);
                lines.extend(gap.map(|gap| format!("max-gap = {}", ms(gap))));
            }
            Kind::NOfM { above, limit, n, m } => {
                lines.extend([
                    "kind = \"n-of-m\"".into(),
                    metric,
                    side(*above, *limit),
                    format!("n = {n}\nm = {m}"),
                ]);
            }
            Kind::Rate { above, limit, per, over } => lines.extend([
                "kind = \"rate-of-change\"".into(),
                metric,
                side(*above, *limit),
                format!("per = {}\nover = {}", ms(*per), ms(*over)),
            ]),
            Kind::NoData { silence, any } => {
                lines.extend(["kind = \"no-data\"".into(), format!("for = {}", ms(*silence))]);
                lines.extend((!any).then_some(metric));
            }
        }
        if self.keep > 0 {
            lines.push(format!("keep-firing = {}", ms(self.keep)));
        }
        if let Some((flips, window)) = self.flapping {
            lines.push(format!("flapping = {{ flips = {flips}, window = {} }}", ms(window)));
        }
        lines.extend(self.repeat.map(|repeat| format!("repeat-every = {}", ms(repeat))));
        if self.late > 0 && !matches!(self.kind, Kind::NoData { .. }) {
            lines.push(format!("on-late = {{ allow = {} }}", ms(self.late)));
        }
        if let Some(devices) = &self.devices {
            let ids: Vec<String> =
                devices.iter().map(|device| format!("{:?}", device_id(*device).to_string())).collect();
            lines.push(format!("devices = [{}]", ids.join(", ")));
        }
        lines.join("\n") + "\n\n"
    }

    /// The levels of the rule: each has episodes of its own.
    fn levels(&self) -> Vec<(AlertSeverity, Kind)> {
        match &self.kind {
            Kind::LowBattery { warning, critical, hysteresis } => {
                let (warning, critical) = if warning.is_none() && critical.is_none() {
                    (Some(10), Some(5))
                } else {
                    (*warning, *critical)
                };
                let level = |level: i32| Kind::Threshold {
                    above: false,
                    limit: f64::from(level),
                    clear: f64::from(level + hysteresis),
                };
                let warning = warning.map(|at| (AlertSeverity::Warning, level(at)));
                let critical = critical.map(|at| (AlertSeverity::Critical, level(at)));
                warning.into_iter().chain(critical).collect()
            }
            other => vec![(AlertSeverity::Warning, other.clone())],
        }
    }

    fn value(&self, made: &Made) -> Option<f64> {
        if matches!(self.kind, Kind::LowBattery { .. }) {
            return made.battery.map(f64::from);
        }
        match self.metric.as_str() {
            "temperature" => made.temperature.map(f64::from),
            _ => made.vibration,
        }
    }
}

/// What is compared of an alert.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) device: String,
    pub(crate) rule: String,
    pub(crate) severity: AlertSeverity,
    pub(crate) low_battery: bool,
    pub(crate) firing: bool,
    pub(crate) onset: i64,
    pub(crate) time: i64,
    pub(crate) window: (i64, i64),
    pub(crate) count: u32,
    pub(crate) value: String,
    pub(crate) threshold: f64,
    pub(crate) offset: i64,
    pub(crate) reason: String,
    pub(crate) repeat: u32,
}

impl Record {
    pub(crate) fn of(raised: &Raised) -> Self {
        let alert = &raised.alert;
        assert_eq!(alert.device_id, raised.device.to_string());
        Self {
            device: alert.device_id.clone(),
            rule: alert.rule.clone(),
            severity: alert.severity(),
            low_battery: raised.low_battery,
            firing: alert.state() == AlertState::Firing,
            onset: alert.onset,
            time: alert.time,
            window: (alert.window_start, alert.window_end),
            count: alert.reading_count,
            value: format!("{:.4}", alert.value + 0.0),
            threshold: alert.threshold,
            offset: alert.source_offset,
            reason: alert.reason.clone(),
            repeat: alert.repeat,
        }
    }
}

/// A time at which a rule was judged, and what was found.
#[derive(Clone, Debug)]
struct Judged {
    now: i64,
    active: bool,
    /// Says only that time has passed, by the partition's time of receipt.
    only_repeat: bool,
    /// When it counts as said, if that is not `now`.
    said: Option<i64>,
    time: i64,
    window: (i64, i64),
    count: u32,
    value: f64,
    offset: i64,
}

type Key = (i64, u64);

/// What has happened to a device so far.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Reading(Made),
    Advance(i64),
}

/// Everything that has happened, by device.
#[derive(Default)]
pub(crate) struct Reference {
    rules: Vec<Rule>,
    events: BTreeMap<u8, Vec<Event>>,
}

impl Reference {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        Self { rules: rules.to_vec(), events: BTreeMap::new() }
    }

    /// The records that this reading causes.
    pub(crate) fn reading(&mut self, made: &Made) -> Vec<Record> {
        self.events.entry(made.device).or_default().push(Event::Reading(made.clone()));
        self.last_records(made.device)
    }

    /// The records that are due because the time of receipt has reached `now`.
    pub(crate) fn advance(&mut self, now: i64) -> Vec<Record> {
        let devices: Vec<u8> = self.events.keys().copied().collect();
        let mut records = Vec::new();
        for device in devices {
            self.events.get_mut(&device).unwrap().push(Event::Advance(now));
            records.extend(self.last_records(device));
        }
        records
    }

    fn last_records(&self, device: u8) -> Vec<Record> {
        let events = &self.events[&device];
        let mut records = Vec::new();
        for rule in &self.rules {
            if rule.devices.as_ref().is_some_and(|devices| !devices.contains(&device)) {
                continue;
            }
            for (severity, kind) in rule.levels() {
                let (judged, first_of_last) = match &kind {
                    Kind::NoData { silence, any } => silences(rule, *silence, *any, events),
                    kind => by_event_time(rule, kind, events),
                };
                let threshold = match &kind {
                    Kind::Threshold { limit, .. }
                    | Kind::Sustained { limit, .. }
                    | Kind::For { limit, .. }
                    | Kind::NOfM { limit, .. }
                    | Kind::Rate { limit, .. } => *limit,
                    Kind::NoData { silence, .. } => *silence as f64 / 1_000.0,
                    Kind::LowBattery { .. } => unreachable!("split into levels"),
                };
                for (index, told) in tell(rule, &judged) {
                    if index < first_of_last {
                        continue;
                    }
                    let at = &judged[index];
                    records.push(Record {
                        device: device_id(device).to_string(),
                        rule: rule.name.clone(),
                        severity,
                        low_battery: matches!(rule.kind, Kind::LowBattery { .. }),
                        firing: told.firing,
                        onset: told.onset,
                        time: at.time,
                        window: at.window,
                        count: at.count,
                        value: format!("{:.4}", at.value + 0.0),
                        threshold,
                        offset: at.offset,
                        reason: if told.flapping { "flapping".to_owned() } else { String::new() },
                        repeat: told.repeat,
                    });
                }
            }
        }
        records
    }
}

fn met(above: bool, value: f64, limit: f64) -> bool {
    if above { value > limit } else { value < limit }
}

/// All judgements of a rule that goes by event time, and from which on they are of the last event.
fn by_event_time(rule: &Rule, kind: &Kind, events: &[Event]) -> (Vec<Judged>, usize) {
    let mut accepted: Vec<(Key, f64)> = Vec::new();
    let mut judged = Vec::new();
    let mut first_of_last = 0;
    let mut floor: Option<Key> = None;
    for event in events {
        first_of_last = judged.len();
        let Event::Reading(made) = event else { continue };
        let Some(value) = rule.value(made) else { continue };
        let key = (made.time_ms, made.sequence);
        if let Some((newest, _)) = accepted.last()
            && key < *newest
            && (rule.late == 0 || key.0 < newest.0 - rule.late)
        {
            continue;
        }
        if accepted.iter().any(|(known, _)| *known == key) {
            continue;
        }
        // At most 128 readings wait for earlier ones.
        let has_tail = rule.late > 0 && matches!(kind, Kind::For { .. } | Kind::Rate { .. });
        if has_tail && floor.is_some_and(|floor| key <= floor) {
            continue;
        }
        accepted.push((key, value));
        accepted.sort_by_key(|(key, _)| *key);
        let now = accepted.last().unwrap().0.0;
        if has_tail {
            loop {
                let tail: Vec<Key> = accepted
                    .iter()
                    .map(|(key, _)| *key)
                    .filter(|key| floor.is_none_or(|floor| *key > floor))
                    .collect();
                if tail.len() <= 128 && tail.first().is_none_or(|first| first.0 >= now - rule.late) {
                    break;
                }
                floor = Some(tail[0]);
            }
        }
        let (active, value, count, window) = judge(kind, &accepted, value, now);
        judged.push(Judged {
            now,
            active,
            only_repeat: false,
            said: None,
            time: made.time_ms,
            window,
            count: u32::try_from(count).unwrap(),
            value,
            offset: made.offset,
        });
    }
    (judged, first_of_last)
}

/// Whether the condition holds by all accepted readings, in order.
fn judge(kind: &Kind, accepted: &[(Key, f64)], value: f64, now: i64) -> (bool, f64, usize, (i64, i64)) {
    match kind {
        Kind::Threshold { above, limit, clear } => {
            let mut decisions = accepted.iter().rev().filter_map(|(_, value)| {
                if met(*above, *value, *limit) {
                    Some(true)
                } else {
                    (!met(*above, *value, *clear)).then_some(false)
                }
            });
            let active = decisions.next().unwrap_or(false);
            (active, value, usize::from(active), (now, now))
        }
        Kind::Sustained { above, limit, count, window } => {
            let found = accepted
                .iter()
                .filter(|((time, _), v)| *time > now - window && met(*above, *v, *limit))
                .count();
            (found >= *count, value, found.min(*count), (now - window, now))
        }
        Kind::NOfM { above, limit, n, m } => {
            let last = &accepted[accepted.len().saturating_sub(*m)..];
            let found = last.iter().filter(|(_, v)| met(*above, *v, *limit)).count();
            (found >= *n, value, found, (last[0].0.0, now))
        }
        Kind::For { above, limit, hold, gap } => {
            let gap = gap.unwrap_or((hold / 2).max(1));
            let (mut since, mut found, mut later) = (now, 0, now);
            for ((time, _), v) in accepted.iter().rev() {
                if !met(*above, *v, *limit) || later - time > gap {
                    break;
                }
                (since, later) = (*time, *time);
                found += 1;
            }
            (found > 0 && now - since >= *hold, value, found, (since, now))
        }
        Kind::Rate { above, limit, per, over } => {
            let mut points: Vec<(i64, f64)> = Vec::new();
            for ((time, _), v) in accepted {
                if points.last().is_none_or(|(last, _)| time - last >= (over / 16).max(1)) {
                    points.push((*time, *v));
                }
            }
            let Some((base_time, base)) = points.into_iter().find(|(time, _)| *time >= now - over) else {
                return (false, 0.0, 0, (now, now));
            };
            let newest = accepted.last().unwrap().1;
            let span = now - base_time;
            if span == 0 || span * 2 < *over {
                return (false, 0.0, 0, (base_time, now));
            }
            let rate = (newest - base) / span as f64 * *per as f64;
            let active = met(*above, rate, *limit);
            (active, rate, usize::from(active), (base_time, now))
        }
        Kind::LowBattery { .. } | Kind::NoData { .. } => unreachable!("judged elsewhere"),
    }
}

/// All judgements of a silence.
fn silences(rule: &Rule, silence: i64, any: bool, events: &[Event]) -> (Vec<Judged>, usize) {
    let mut judged: Vec<Judged> = Vec::new();
    let mut first_of_last = 0;
    let mut last: Option<i64> = None;
    let (mut silent, mut offset) = (None::<i64>, 0);
    for event in events {
        first_of_last = judged.len();
        let reached = match event {
            Event::Reading(made) => made.received_ms,
            Event::Advance(now) => *now,
        };
        let at = |now: i64, active: bool, last: i64, offset: i64| Judged {
            now,
            active,
            only_repeat: false,
            said: None,
            time: now,
            window: (last, now),
            count: 0,
            value: (now - last) as f64 / 1_000.0,
            offset,
        };
        if let Some(last) = last {
            if silent.is_none() && reached >= last + silence {
                let due = last + silence;
                judged.push(Judged { said: Some(reached), ..at(due, true, last, offset) });
                silent = Some(due);
            }
            if silent.is_some() && matches!(event, Event::Advance(_)) {
                judged.push(Judged { only_repeat: true, ..at(reached, true, last, offset) });
            }
        }
        if let Event::Reading(made) = event {
            if any || rule.value(made).is_some() {
                // Time goes back neither behind an earlier receipt nor behind the silence that was found.
                let now = made.received_ms.max(last.unwrap_or(i64::MIN)).max(silent.unwrap_or(i64::MIN));
                if let Some(last) = last {
                    judged.push(at(now, false, last, made.offset));
                }
                last = Some(now);
                silent = None;
            }
            offset = made.offset;
        }
    }
    (judged, first_of_last)
}

struct Told {
    firing: bool,
    onset: i64,
    flapping: bool,
    repeat: u32,
}

/// What is told of a sequence of judgements: which one caused it, and what it says.
fn tell(rule: &Rule, judged: &[Judged]) -> Vec<(usize, Told)> {
    struct Open {
        onset: i64,
        cleared: Option<i64>,
        said: i64,
        repeat: u32,
        held: bool,
    }
    let mut told = Vec::new();
    let mut open: Option<Open> = None;
    let mut last_onset: Option<i64> = None;
    let mut flips: Vec<i64> = Vec::new();
    let mut before = false;
    for (index, at) in judged.iter().enumerate() {
        let calm = |flips: &[i64]| match (rule.flapping, flips.last()) {
            (Some((_, window)), Some(last)) => at.now - last >= window,
            _ => true,
        };
        let over = |open: &Open, flips: &[i64]| {
            open.cleared.is_some_and(|cleared| at.now - cleared >= rule.keep) && (!open.held || calm(flips))
        };
        if at.only_repeat {
            if let (Some(open), Some(every)) = (&mut open, rule.repeat)
                && at.now - open.said >= every
            {
                open.said = at.now;
                open.repeat += 1;
                told.push((
                    index,
                    Told { firing: true, onset: open.onset, flapping: open.held, repeat: open.repeat },
                ));
            }
            continue;
        }
        let resolved = |onset: i64| Told { firing: false, onset, flapping: false, repeat: 0 };
        if let Some(ended) = open.take_if(|open| over(open, &flips)) {
            told.push((index, resolved(ended.onset)));
        }
        if at.active != before {
            flips.push(at.now);
            before = at.active;
        }
        if at.active {
            if let Some(open) = &mut open {
                open.cleared = None;
                open.held &= !calm(&flips);
                if let Some(every) = rule.repeat
                    && at.now - open.said >= every
                {
                    open.said = at.now;
                    open.repeat += 1;
                    told.push((
                        index,
                        Told { firing: true, onset: open.onset, flapping: open.held, repeat: open.repeat },
                    ));
                }
            } else {
                let onset = last_onset.map_or(at.now, |last| at.now.max(last + 1));
                let held = rule.flapping.is_some_and(|(most, window)| {
                    flips.iter().filter(|flip| **flip > at.now - window).count() > most
                });
                last_onset = Some(onset);
                open = Some(Open { onset, cleared: None, said: at.now, repeat: 0, held });
                told.push((index, Told { firing: true, onset, flapping: held, repeat: 0 }));
            }
            // It counts as said when it was found, if it was said at all.
            if let (Some(open), Some(said)) = (&mut open, at.said)
                && told.last().is_some_and(|(last, told)| *last == index && told.firing)
            {
                open.said = said;
            }
        } else {
            if let Some(open) = &mut open {
                open.cleared.get_or_insert(at.now);
            }
            if let Some(ended) = open.take_if(|open| over(open, &flips)) {
                told.push((index, resolved(ended.onset)));
            }
        }
    }
    told
}
