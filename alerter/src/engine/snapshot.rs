//! A device's state as bytes for the state topic, readable under any rules. Pure.
//!
//! `[version][seen][base][count]`, then each track's fingerprint and state; an episode under way adds what is needed to end
//! it without its rule.

use penstock_proto::v1::AlertSeverity;

use super::codec::{Bytes, SnapshotError, State, put, put_state, state};
use super::device::{Header, base};
use super::raise::Identity;
use crate::engine::condition::Condition;
use crate::rules::{RuleSet, Test, Track};

/// The only version so far.
const VERSION: u8 = 1;
/// More is no state.
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// Tracks at most: two for each rule.
const TRACKS_MAX: u64 = 2_000;

const LOW_BATTERY: u8 = 4;

/// One track's state as it was saved.
#[derive(Debug)]
pub(crate) struct Saved<'a> {
    pub(crate) fingerprint: u64,
    pub(crate) state: State,
    /// There if an episode is under way.
    pub(crate) identity: Option<Identity<'a>>,
}

/// Writes the states, one slot for each track of `rules`.
pub(crate) fn write(rules: &RuleSet, seen: i64, slots: &[Option<State>]) -> Vec<u8> {
    let mut out = vec![VERSION];
    let header = Header { seen, base: base(slots.iter().flatten()) };
    header.put(&mut out);
    put(&mut out, slots.iter().flatten().count() as u64);
    for (track, slot) in rules.tracks().iter().zip(slots) {
        let Some(state) = slot else { continue };
        out.extend_from_slice(&track.fingerprint.to_be_bytes());
        put_state(&mut out, state, header.base);
        if state.episode.firing.is_some() {
            let identity = Identity::of(rules.rule(track), track);
            put(&mut out, identity.rule.len() as u64);
            out.extend_from_slice(identity.rule.as_bytes());
            let severity = match identity.severity {
                AlertSeverity::Unspecified => 0,
                AlertSeverity::Info => 1,
                AlertSeverity::Warning => 2,
                AlertSeverity::Critical => 3,
            };
            out.push(severity | if identity.low_battery { LOW_BATTERY } else { 0 });
            out.extend_from_slice(&identity.threshold.to_le_bytes());
        }
    }
    out
}

/// Reads what [`write`] has written: the last offset seen, and the states.
pub(crate) fn read(snapshot: &[u8]) -> Result<(i64, Vec<Saved<'_>>), SnapshotError> {
    if snapshot.len() > BYTES_MAX {
        return Err(SnapshotError::TooLarge(snapshot.len()));
    }
    let mut bytes = Bytes { rest: snapshot };
    match bytes.byte()? {
        VERSION => {}
        other => return Err(SnapshotError::Version(other)),
    }
    let header = Header::read(&mut bytes)?;
    let count = bytes.number()?;
    if count > TRACKS_MAX {
        return Err(SnapshotError::Invalid("more rules than are possible"));
    }
    let mut saved: Vec<Saved<'_>> = Vec::new();
    for _ in 0..count {
        let fingerprint = u64::from_be_bytes(bytes.array()?);
        let state = state(&mut bytes, header.base)?;
        let identity = state.episode.firing.map(|_| identity(&mut bytes)).transpose()?;
        if saved.iter().any(|other| other.fingerprint == fingerprint) {
            return Err(SnapshotError::Invalid("a rule twice"));
        }
        saved.push(Saved { fingerprint, state, identity });
    }
    if !bytes.rest.is_empty() {
        return Err(SnapshotError::Invalid("something behind its end"));
    }
    Ok((header.seen, saved))
}

fn identity<'a>(bytes: &mut Bytes<'a>) -> Result<Identity<'a>, SnapshotError> {
    let len = usize::try_from(bytes.number()?).map_err(|_| SnapshotError::Truncated)?;
    let rule = std::str::from_utf8(bytes.take(len)?)
        .map_err(|_| SnapshotError::Invalid("a name that is no text"))?;
    let flags = bytes.byte()?;
    let severity = match flags & 3 {
        1 => AlertSeverity::Info,
        2 => AlertSeverity::Warning,
        3 => AlertSeverity::Critical,
        _ => AlertSeverity::Unspecified,
    };
    let threshold = f64::from_le_bytes(bytes.array()?);
    if flags > 7 || !threshold.is_finite() {
        return Err(SnapshotError::Invalid("an unknown rule"));
    }
    Ok(Identity { rule, severity, low_battery: flags & LOW_BATTERY != 0, threshold })
}

/// Whether the state is one of this track.
pub(crate) fn fits(track: &Track, state: &State) -> bool {
    let flips_max = track.modifiers.flapping.map_or(0, |flapping| flapping.flips + 1);
    let tail_fits = |len: usize| len == 0 || track.modifiers.late_ms > 0;
    state.episode.flips.len() <= flips_max
        && match (&track.test, &state.condition) {
            (Test::Level { .. }, Condition::Level { .. })
            | (Test::Silence { .. }, Condition::Silence { .. }) => true,
            (Test::Window { count, .. }, Condition::Window { met }) => met.len() <= *count,
            (Test::Last { m, .. }, Condition::Last { samples }) => samples.len() <= *m,
            (Test::Run { .. }, Condition::Run { tail, .. })
            | (Test::Slope { .. }, Condition::Slope { tail, .. }) => tail_fits(tail.samples.len()),
            _ => false,
        }
}
