//! A device's state as bytes. In memory and in the state topic alike, states are these bytes between two readings; they
//! take a tenth of what structs would. Pure.
//!
//! Integers are varints, times are differences to the newest reading's. Bodies describe themselves, so that those of rules
//! that are gone can be read, too.

use super::condition::{Condition, Key, Run, Sample, Slope, Tail};
use super::episode::{Episode, Firing};
use crate::rules::{COUNT_MAX, FLIPS_MAX, TAIL_MAX};

/// The bytes are not a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It was written by a later version.
    #[error("state of version {0}, which this version cannot read; it was written by a newer penstock")]
    Version(u8),
    /// It is larger than any state.
    #[error("state of {0} bytes, more than any state has")]
    TooLarge(usize),
    /// It ends too early.
    #[error("state ends early")]
    Truncated,
    /// It says what no state says.
    #[error("state has {0}")]
    Invalid(&'static str),
}

/// What is known of one rule on one device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    /// The newest reading; `None` for `no-data`.
    pub(crate) newest: Option<Key>,
    pub(crate) condition: Condition,
    pub(crate) episode: Episode,
}

impl State {
    /// The time that the state is of.
    pub(crate) fn now(&self) -> Key {
        match self.condition {
            Condition::Silence { last_ms } => Key { time_ms: last_ms, sequence: 0 },
            _ => self.newest.unwrap_or(Key { time_ms: 0, sequence: 0 }),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned());
}

fn put_key(out: &mut Vec<u8>, key: Key, from: Key) {
    put_signed(out, from.time_ms.wrapping_sub(key.time_ms));
    put_signed(out, from.sequence.wrapping_sub(key.sequence).cast_signed());
}

/// In single precision where nothing is lost.
#[allow(clippy::cast_possible_truncation, reason = "compared with what it was")]
fn put_value(out: &mut Vec<u8>, value: f64) {
    let single = value as f32;
    if f64::from(single).to_bits() == value.to_bits() {
        out.push(0);
        out.extend_from_slice(&single.to_le_bytes());
    } else {
        out.push(1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Reads what the functions above write.
pub(crate) struct Bytes<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8, SnapshotError> {
        let (first, rest) = self.rest.split_first().ok_or(SnapshotError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Result<u64, SnapshotError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if shift == 63 && byte > 1 { Err(OVERFLOW) } else { Ok(value) };
            }
        }
        Err(OVERFLOW)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, SnapshotError> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], SnapshotError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(SnapshotError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(SnapshotError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn key(&mut self, from: Key) -> Result<Key, SnapshotError> {
        let time_ms = from.time_ms.wrapping_sub(self.signed()?);
        let sequence = from.sequence.wrapping_sub(self.signed()?.cast_unsigned());
        Ok(Key { time_ms, sequence })
    }

    fn value(&mut self) -> Result<f64, SnapshotError> {
        let value = match self.byte()? {
            0 => f64::from(f32::from_le_bytes(self.array()?)),
            1 => f64::from_le_bytes(self.array()?),
            _ => return Err(SnapshotError::Invalid("a value of no precision")),
        };
        if value.is_finite() { Ok(value) } else { Err(SnapshotError::Invalid("a value that is no number")) }
    }

    /// A length; each item takes a byte at least.
    fn len(&mut self, max: usize) -> Result<usize, SnapshotError> {
        let len = self.number()?;
        usize::try_from(len)
            .ok()
            .filter(|len| *len <= max && *len <= self.rest.len())
            .ok_or(SnapshotError::Invalid("a list that is too long"))
    }
}

const OVERFLOW: SnapshotError = SnapshotError::Invalid("a number of more than 64 bits");
const UNORDERED: SnapshotError = SnapshotError::Invalid("readings that are not in order");

const KINDS: u8 = 0b111;
const ACTIVE: u8 = 1 << 3;
const FIRING: u8 = 1 << 4;
const ONSET: u8 = 1 << 5;
const FLIPS: u8 = 1 << 6;
const NEWEST: u8 = 1 << 7;

const fn kind(condition: &Condition) -> u8 {
    match condition {
        Condition::Level { .. } => 0,
        Condition::Window { .. } => 1,
        Condition::Last { .. } => 2,
        Condition::Run { .. } => 3,
        Condition::Slope { .. } => 4,
        Condition::Silence { .. } => 5,
    }
}

/// Writes a state; times are written as differences to `base`.
pub(crate) fn put_state(out: &mut Vec<u8>, state: &State, base: Key) {
    let State { newest, condition, episode } = state;
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    out.push(
        kind(condition)
            | flag(episode.active, ACTIVE)
            | flag(episode.firing.is_some(), FIRING)
            | flag(episode.onset_ms.is_some(), ONSET)
            | flag(!episode.flips.is_empty(), FLIPS)
            | flag(newest.is_some(), NEWEST),
    );
    if let Some(newest) = newest {
        put_key(out, *newest, base);
    }
    let now = newest.unwrap_or(base);
    match condition {
        Condition::Level { decisive } => put_level(out, *decisive, now),
        Condition::Window { met } => put_keys(out, met.iter().map(|key| (*key, None)), now),
        Condition::Last { samples } => {
            put_keys(out, samples.iter().map(|(key, met)| (*key, Some(*met))), now)
        }
        Condition::Run { run, tail } => {
            put_run(out, *run, now);
            put_tail(out, tail, now);
        }
        Condition::Slope { slope, tail } => {
            put_slope(out, slope, now);
            put_tail(out, tail, now);
        }
        Condition::Silence { last_ms } => put_signed(out, now.time_ms.wrapping_sub(*last_ms)),
    }
    if let Some(onset_ms) = episode.onset_ms {
        put_signed(out, now.time_ms.wrapping_sub(onset_ms));
    }
    if let Some(firing) = episode.firing {
        out.push(flag(firing.flapping, 1) | flag(firing.cleared_ms.is_some(), 2));
        if let Some(cleared_ms) = firing.cleared_ms {
            put_signed(out, now.time_ms.wrapping_sub(cleared_ms));
        }
        put_signed(out, now.time_ms.wrapping_sub(firing.said_ms));
        put(out, u64::from(firing.repeat));
    }
    if !episode.flips.is_empty() {
        put(out, episode.flips.len() as u64);
        let mut from = now.time_ms;
        for flip in episode.flips.iter().rev() {
            put_signed(out, from.wrapping_sub(*flip));
            from = *flip;
        }
    }
}

fn put_level(out: &mut Vec<u8>, decisive: Option<(Key, bool)>, now: Key) {
    match decisive {
        None => out.push(0),
        Some((key, met)) => {
            out.push(1 + u8::from(met));
            put_key(out, key, now);
        }
    }
}

/// Newest first, each with its mark, if there is one.
fn put_keys(
    out: &mut Vec<u8>,
    keys: impl DoubleEndedIterator<Item = (Key, Option<bool>)> + ExactSizeIterator,
    now: Key,
) {
    put(out, keys.len() as u64);
    let mut from = now;
    for (key, mark) in keys.rev() {
        put_key(out, key, from);
        if let Some(mark) = mark {
            out.push(u8::from(mark));
        }
        from = key;
    }
}

fn put_run(out: &mut Vec<u8>, run: Option<Run>, now: Key) {
    let Some(run) = run else { return put(out, 0) };
    put(out, u64::from(run.count));
    put_signed(out, now.time_ms.wrapping_sub(run.last_ms));
    put_signed(out, run.last_ms.wrapping_sub(run.since_ms));
}

fn put_slope(out: &mut Vec<u8>, slope: &Slope, now: Key) {
    put(out, slope.points.len() as u64);
    let mut from = now.time_ms;
    for (time_ms, value) in slope.points.iter().rev() {
        put_signed(out, from.wrapping_sub(*time_ms));
        put_value(out, *value);
        from = *time_ms;
    }
    out.push(u8::from(slope.last.is_some()));
    if let Some((time_ms, value)) = slope.last {
        put_signed(out, now.time_ms.wrapping_sub(time_ms));
        put_value(out, value);
    }
}

fn put_tail(out: &mut Vec<u8>, tail: &Tail, now: Key) {
    put(out, tail.samples.len() as u64);
    let mut from = now;
    for sample in tail.samples.iter().rev() {
        put_key(out, sample.key, from);
        put_value(out, sample.value);
        from = sample.key;
    }
    out.push(u8::from(tail.floor.is_some()));
    if let Some(floor) = tail.floor {
        put_key(out, floor, from);
    }
}

/// Reads a state; `base` is what it was written with.
pub(crate) fn state(bytes: &mut Bytes<'_>, base: Key) -> Result<State, SnapshotError> {
    let tag = bytes.byte()?;
    let newest = if tag & NEWEST == 0 { None } else { Some(bytes.key(base)?) };
    let now = newest.unwrap_or(base);
    let condition = condition(bytes, tag & KINDS, now)?;
    if matches!(condition, Condition::Silence { .. }) == newest.is_some() {
        return Err(SnapshotError::Invalid("a newest reading where there is none"));
    }
    let onset_ms = if tag & ONSET == 0 { None } else { Some(now.time_ms.wrapping_sub(bytes.signed()?)) };
    let firing = if tag & FIRING == 0 { None } else { Some(firing(bytes, now)?) };
    if firing.is_some() && onset_ms.is_none() {
        return Err(SnapshotError::Invalid("an episode without an onset"));
    }
    let mut flips = Vec::new();
    if tag & FLIPS != 0 {
        let len = bytes.len(FLIPS_MAX + 1)?;
        let mut from = now.time_ms;
        for _ in 0..len {
            from = from.wrapping_sub(bytes.signed()?);
            flips.push(from);
        }
        flips.reverse();
        if flips.is_empty() {
            return Err(SnapshotError::Invalid("no flips where there are some"));
        }
    }
    let episode = Episode { active: tag & ACTIVE != 0, onset_ms, firing, flips };
    Ok(State { newest, condition, episode })
}

fn firing(bytes: &mut Bytes<'_>, now: Key) -> Result<Firing, SnapshotError> {
    let flags = bytes.byte()?;
    let cleared_ms = if flags & 2 == 0 { None } else { Some(now.time_ms.wrapping_sub(bytes.signed()?)) };
    let said_ms = now.time_ms.wrapping_sub(bytes.signed()?);
    let repeat = u32::try_from(bytes.number()?).map_err(|_| OVERFLOW)?;
    if flags > 3 {
        return Err(SnapshotError::Invalid("an unknown mark of an episode"));
    }
    Ok(Firing { cleared_ms, said_ms, repeat, flapping: flags & 1 != 0 })
}

fn condition(bytes: &mut Bytes<'_>, kind: u8, now: Key) -> Result<Condition, SnapshotError> {
    Ok(match kind {
        0 => Condition::Level {
            decisive: match bytes.byte()? {
                0 => None,
                which @ 1..=2 => Some((bytes.key(now)?, which == 2)),
                _ => return Err(SnapshotError::Invalid("an unknown decision")),
            },
        },
        1 => {
            let mut met = keys(bytes, now, |_| Ok(()))?.into_iter().map(|(key, ())| key).collect::<Vec<_>>();
            met.shrink_to_fit();
            Condition::Window { met }
        }
        2 => Condition::Last {
            samples: keys(bytes, now, |bytes| match bytes.byte()? {
                mark @ 0..=1 => Ok(mark == 1),
                _ => Err(SnapshotError::Invalid("an unknown mark of a reading")),
            })?,
        },
        3 => Condition::Run { run: run(bytes, now)?, tail: tail(bytes, now)? },
        4 => Condition::Slope { slope: slope(bytes, now)?, tail: tail(bytes, now)? },
        5 => Condition::Silence { last_ms: now.time_ms.wrapping_sub(bytes.signed()?) },
        _ => return Err(SnapshotError::Invalid("a rule of an unknown kind")),
    })
}

fn keys<T>(
    bytes: &mut Bytes<'_>,
    now: Key,
    mut also: impl FnMut(&mut Bytes<'_>) -> Result<T, SnapshotError>,
) -> Result<Vec<(Key, T)>, SnapshotError> {
    let len = bytes.len(COUNT_MAX)?;
    let mut keys = Vec::with_capacity(len);
    let mut from = now;
    for index in 0..len {
        let key = bytes.key(from)?;
        if key > from || (index > 0 && key == from) {
            return Err(UNORDERED);
        }
        keys.push((key, also(bytes)?));
        from = key;
    }
    keys.reverse();
    Ok(keys)
}

fn run(bytes: &mut Bytes<'_>, now: Key) -> Result<Option<Run>, SnapshotError> {
    let count = u32::try_from(bytes.number()?).map_err(|_| OVERFLOW)?;
    if count == 0 {
        return Ok(None);
    }
    let last_ms = now.time_ms.wrapping_sub(bytes.signed()?);
    let since_ms = last_ms.wrapping_sub(bytes.signed()?);
    Ok(Some(Run { since_ms, last_ms, count }))
}

fn slope(bytes: &mut Bytes<'_>, now: Key) -> Result<Slope, SnapshotError> {
    let len = bytes.len(64)?;
    let mut points = Vec::with_capacity(len);
    let mut from = now.time_ms;
    for _ in 0..len {
        from = from.wrapping_sub(bytes.signed()?);
        points.push((from, bytes.value()?));
    }
    points.reverse();
    if !points.is_sorted_by_key(|(time_ms, _)| *time_ms) {
        return Err(UNORDERED);
    }
    let last = match bytes.byte()? {
        0 => None,
        1 => Some((now.time_ms.wrapping_sub(bytes.signed()?), bytes.value()?)),
        _ => return Err(SnapshotError::Invalid("an unknown mark of a reading")),
    };
    Ok(Slope { points, last })
}

fn tail(bytes: &mut Bytes<'_>, now: Key) -> Result<Tail, SnapshotError> {
    let len = bytes.len(TAIL_MAX)?;
    let mut samples = Vec::with_capacity(len);
    let mut from = now;
    for index in 0..len {
        let key = bytes.key(from)?;
        if key > from || (index > 0 && key == from) {
            return Err(UNORDERED);
        }
        samples.push(Sample { key, value: bytes.value()? });
        from = key;
    }
    samples.reverse();
    let floor = match bytes.byte()? {
        0 => None,
        1 => Some(bytes.key(from)?),
        _ => return Err(SnapshotError::Invalid("an unknown mark of a reading")),
    };
    Ok(Tail { floor, samples })
}
