//! One rule and one device: from a reading, or from time that has passed, to what is said. Pure.

use penstock_proto::v1::AlertState;

use super::codec::State;
use super::condition::{Condition, Key, Sample, Taken, Verdict};
use super::episode::{Episode, Raise, Said};
use super::raise::{self, Cause, FLAPPING, Raised, Record};
use super::{Counts, Reading};
use crate::rules::{RuleSet, Test, Track};

/// Rules on their way over one device.
pub(super) struct Apply<'a> {
    pub(super) rules: &'a RuleSet,
    pub(super) cause: Cause,
    pub(super) counts: &'a mut Counts,
    /// By how many more episodes are under way.
    pub(super) firing: isize,
    pub(super) out: &'a mut Vec<Raised>,
}

impl Apply<'_> {
    /// A reading on its way over one rule.
    pub(super) fn track(
        &mut self,
        track: &Track,
        slot: &mut Option<State>,
        values: &[Option<f64>],
        reading: &Reading<'_>,
        seen: Option<i64>,
    ) {
        let value = track.metric.map(|index| values.get(index).copied().flatten());
        let is_silence = track.is_silence();
        if matches!(value, Some(None)) && !(is_silence && slot.is_some()) {
            return;
        }
        if slot.is_none() && !self.rules.rule(track).scope().contains(&reading.device) {
            return;
        }
        self.counts.evaluations += 1;
        let is_new = slot.is_none();
        let state = slot.get_or_insert_with(|| State {
            newest: None,
            condition: Condition::new(&track.test, reading.received_ms),
            episode: Episode::default(),
        });
        if is_silence {
            if !is_new {
                let counts_as_receipt = !matches!(value, Some(None));
                self.silence(track, state, reading, seen.unwrap_or(reading.offset), counts_as_receipt);
            }
            return;
        }
        let key = Key { time_ms: reading.view.timestamp_ms, sequence: reading.view.sequence };
        let sample = Sample { key, value: value.flatten().unwrap_or_default() };
        match state.condition.take(&track.test, track.modifiers.late_ms, &mut state.newest, sample) {
            Taken::Late => self.counts.late += 1,
            Taken::Duplicate => self.counts.duplicates += 1,
            Taken::Judged(verdict) => {
                let now_ms = state.now().time_ms;
                let said = state.episode.observe(&track.modifiers, now_ms, verdict.active);
                self.say(track, self.cause, verdict, said);
            }
        }
    }

    /// A reading of a device whose silence is watched: first what its silence before has come to, then its end.
    fn silence(&mut self, track: &Track, state: &mut State, reading: &Reading<'_>, seen: i64, counts: bool) {
        let cause = Cause { offset: seen, ..self.cause };
        let received_ms = reading.received_ms;
        self.fall_silent(track, state, cause, received_ms, received_ms);
        let (Test::Silence { silence_ms }, Condition::Silence { last_ms }) =
            (&track.test, &mut state.condition)
        else {
            return;
        };
        if !counts {
            return;
        }
        let before_ms = *last_ms;
        // Time goes back neither behind an earlier receipt nor behind the silence that was found.
        let found_ms = if state.episode.active { before_ms.saturating_add(*silence_ms) } else { before_ms };
        let now_ms = received_ms.max(found_ms);
        *last_ms = now_ms;
        let verdict = silent(false, before_ms, now_ms);
        let said = state.episode.observe(&track.modifiers, now_ms, false);
        self.say(track, Cause { time_ms: now_ms, ..self.cause }, verdict, said);
    }

    /// What is due by `now_ms`. Whether anything has changed.
    pub(super) fn advance(&mut self, track: &Track, state: &mut State, now_ms: i64) -> bool {
        if !track.is_silence() {
            return false;
        }
        let fell = self.fall_silent(track, state, self.cause, now_ms, now_ms);
        let Condition::Silence { last_ms } = state.condition else { return fell };
        if !state.episode.active {
            return fell;
        }
        let Some(repeated) = state.episode.repeat(&track.modifiers, now_ms) else { return fell };
        let said = Said { repeated: Some(repeated), ..Said::default() };
        self.say(track, self.cause, silent(true, last_ms, now_ms), said);
        true
    }

    /// Raises a silence that has become long enough by `until_ms`, as of the time it did. Whether it has.
    fn fall_silent(
        &mut self,
        track: &Track,
        state: &mut State,
        cause: Cause,
        until_ms: i64,
        said_ms: i64,
    ) -> bool {
        let (Test::Silence { silence_ms }, Condition::Silence { last_ms }) = (&track.test, &state.condition)
        else {
            return false;
        };
        let last_ms = *last_ms;
        let Some(due_ms) = last_ms.checked_add(*silence_ms).filter(|due_ms| *due_ms <= until_ms) else {
            return false;
        };
        if state.episode.active {
            return false;
        }
        let said = state.episode.observe(&track.modifiers, due_ms, true);
        // It is said now, whenever it was due; repetitions count from now.
        if (said.raised.is_some() || said.repeated.is_some())
            && let Some(firing) = &mut state.episode.firing
        {
            firing.said_ms = said_ms;
        }
        self.say(track, Cause { time_ms: due_ms, ..cause }, silent(true, last_ms, due_ms), said);
        true
    }

    fn say(&mut self, track: &Track, cause: Cause, verdict: Verdict, said: Said) {
        if said == Said::default() {
            return;
        }
        let rule = self.rules.rule(track);
        if let Some(onset_ms) = said.resolved {
            let record = Record { state: AlertState::Resolved, onset_ms, repeat: 0, reason: "" };
            self.out.push(raise::raised(rule, track, cause, verdict, record));
            self.counts.resolved += 1;
            self.firing -= 1;
        }
        let mut fire = |raise: Raise| {
            let reason = if raise.flapping { FLAPPING } else { "" };
            let Raise { onset_ms, repeat, .. } = raise;
            let record = Record { state: AlertState::Firing, onset_ms, repeat, reason };
            self.out.push(raise::raised(rule, track, cause, verdict, record));
        };
        if let Some(raise) = said.raised {
            fire(raise);
            self.counts.raised += 1;
            self.firing += 1;
        } else if let Some(raise) = said.repeated {
            fire(raise);
            self.counts.repeated += 1;
        }
        self.counts.suppressed += u64::from(said.suppressed);
    }
}

/// The evidence of a silence, in seconds.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of centuries are exact")]
fn silent(active: bool, last_ms: i64, now_ms: i64) -> Verdict {
    let value = now_ms.saturating_sub(last_ms) as f64 / 1_000.0;
    Verdict { active, value, count: 0, window_ms: (last_ms, now_ms) }
}
