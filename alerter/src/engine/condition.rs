//! Whether a rule's condition holds on a device, by all readings so far. Pure.
//!
//! Each kind keeps only what later verdicts can depend on. Readings that come out of order within the allowed lateness are
//! placed where they belong: the verdict is the one that readings in order would have led to.

use crate::rules::{POINTS, Side, TAIL_MAX, Test};

/// Where a reading stands in the order of its device: by event time, then by sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) time_ms: i64,
    pub(crate) sequence: u64,
}

/// A reading as a rule sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) key: Key,
    pub(crate) value: f64,
}

/// Readings in a row that meet the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) since_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) count: u32,
}

/// What change is measured by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slope {
    /// Support points within the measured time, oldest first: time and value.
    pub(crate) points: Vec<(i64, f64)>,
    /// The newest reading.
    pub(crate) last: Option<(i64, f64)>,
}

/// Readings that earlier ones may still come before, in order; and the last one to which nothing comes before any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tail {
    pub(crate) floor: Option<Key>,
    pub(crate) samples: Vec<Sample>,
}

/// What a condition has to know of earlier readings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    /// The last reading that decided, and for what.
    Level {
        decisive: Option<(Key, bool)>,
    },
    /// The newest readings in the window that meet the condition, oldest first.
    Window {
        met: Vec<Key>,
    },
    /// The newest readings, oldest first, and whether they meet the condition.
    Last {
        samples: Vec<(Key, bool)>,
    },
    Run {
        run: Option<Run>,
        tail: Tail,
    },
    Slope {
        slope: Slope,
        tail: Tail,
    },
    /// The last receipt.
    Silence {
        last_ms: i64,
    },
}

/// Whether the condition holds, and by what evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) active: bool,
    pub(crate) value: f64,
    pub(crate) count: u32,
    pub(crate) window_ms: (i64, i64),
}

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Taken {
    /// It came after the allowed lateness.
    Late,
    /// It had come before.
    Duplicate,
    Judged(Verdict),
}

impl Condition {
    /// What is known before the first reading; `received_ms` is the time of its receipt.
    pub(crate) fn new(test: &Test, received_ms: i64) -> Self {
        match test {
            Test::Level { .. } => Self::Level { decisive: None },
            Test::Window { .. } => Self::Window { met: Vec::new() },
            Test::Last { .. } => Self::Last { samples: Vec::new() },
            Test::Run { .. } => Self::Run { run: None, tail: Tail::default() },
            Test::Slope { .. } => Self::Slope { slope: Slope::default(), tail: Tail::default() },
            Test::Silence { .. } => Self::Silence { last_ms: received_ms },
        }
    }

    /// Takes in a reading. `newest` is the newest one so far, which it may become.
    pub(crate) fn take(
        &mut self,
        test: &Test,
        late_ms: i64,
        newest: &mut Option<Key>,
        sample: Sample,
    ) -> Taken {
        let key = sample.key;
        if let Some(newest) = *newest
            && key <= newest
        {
            if key == newest {
                return Taken::Duplicate;
            }
            if late_ms == 0 || key.time_ms < newest.time_ms.saturating_sub(late_ms) {
                return Taken::Late;
            }
        }
        let now = newest.map_or(key, |newest| newest.max(key));
        *newest = Some(now);
        let now_ms = now.time_ms;
        let judged = match (self, test) {
            (Self::Level { decisive }, Test::Level { side, limit, clear }) => {
                level(decisive, sample, *side, (*limit, *clear), now_ms)
            }
            (Self::Window { met }, Test::Window { side, limit, count, window_ms }) => {
                window(met, sample, side.is_met(sample.value, *limit), (*count, *window_ms), now_ms)
            }
            (Self::Last { samples }, Test::Last { side, limit, n, m }) => {
                last(samples, sample, side.is_met(sample.value, *limit), (*n, *m), now_ms)
            }
            (Self::Run { run, tail }, Test::Run { side, limit, hold_ms, gap_ms }) => {
                let step = |run: &mut Option<Run>, sample: Sample| {
                    step_run(run, sample.key.time_ms, side.is_met(sample.value, *limit), *gap_ms);
                };
                tail.fold(run, sample, (now_ms, late_ms), step)
                    .map(|run| judge_run(run, *hold_ms, sample.value, now_ms))
            }
            (Self::Slope { slope, tail }, Test::Slope { side, limit, per_ms, over_ms }) => {
                let step = |slope: &mut Slope, sample: Sample| slope.step(sample, *over_ms);
                tail.fold(slope, sample, (now_ms, late_ms), step)
                    .map(|slope| slope.judge(*side, *limit, *per_ms, *over_ms))
            }
            // No state is kept under a rule of another kind.
            _ => Err(Taken::Late),
        };
        judged.map_or_else(|taken| taken, Taken::Judged)
    }
}

fn level(
    decisive: &mut Option<(Key, bool)>,
    sample: Sample,
    side: Side,
    (limit, clear): (f64, f64),
    now_ms: i64,
) -> Result<Verdict, Taken> {
    let decision = if side.is_met(sample.value, limit) {
        Some(true)
    } else if side.is_met(sample.value, clear) {
        None
    } else {
        Some(false)
    };
    if let Some(met) = decision
        && decisive.is_none_or(|(key, _)| sample.key > key)
    {
        *decisive = Some((sample.key, met));
    }
    let active = decisive.is_some_and(|(_, met)| met);
    Ok(Verdict { active, value: sample.value, count: u32::from(active), window_ms: (now_ms, now_ms) })
}

fn window(
    met: &mut Vec<Key>,
    sample: Sample,
    is_met: bool,
    (count, window_ms): (usize, i64),
    now_ms: i64,
) -> Result<Verdict, Taken> {
    if is_met {
        match met.binary_search(&sample.key) {
            Ok(_) => return Err(Taken::Duplicate),
            Err(at) => met.insert(at, sample.key),
        }
    }
    let start_ms = now_ms.saturating_sub(window_ms);
    let too_many = met.len().saturating_sub(count);
    let too_old = met.partition_point(|key| key.time_ms <= start_ms);
    met.drain(..too_many.max(too_old));
    let active = met.len() >= count;
    Ok(Verdict { active, value: sample.value, count: number(met.len()), window_ms: (start_ms, now_ms) })
}

fn last(
    samples: &mut Vec<(Key, bool)>,
    sample: Sample,
    is_met: bool,
    (n, m): (usize, usize),
    now_ms: i64,
) -> Result<Verdict, Taken> {
    match samples.binary_search_by_key(&sample.key, |(key, _)| *key) {
        Ok(_) => return Err(Taken::Duplicate),
        Err(at) => samples.insert(at, (sample.key, is_met)),
    }
    samples.drain(..samples.len().saturating_sub(m));
    let count = samples.iter().filter(|(_, met)| *met).count();
    let start_ms = samples.first().map_or(now_ms, |(key, _)| key.time_ms);
    Ok(Verdict {
        active: count >= n,
        value: sample.value,
        count: number(count),
        window_ms: (start_ms, now_ms),
    })
}

impl Tail {
    /// What `base` becomes by all readings, this one included. What can have no earlier one before it any more becomes
    /// part of `base`.
    fn fold<T: Clone>(
        &mut self,
        base: &mut T,
        sample: Sample,
        (now_ms, late_ms): (i64, i64),
        step: impl Fn(&mut T, Sample),
    ) -> Result<T, Taken> {
        if late_ms == 0 {
            step(base, sample);
            return Ok(base.clone());
        }
        if self.floor.is_some_and(|floor| sample.key <= floor) {
            return Err(Taken::Late);
        }
        match self.samples.binary_search_by_key(&sample.key, |sample| sample.key) {
            Ok(_) => return Err(Taken::Duplicate),
            Err(at) => self.samples.insert(at, sample),
        }
        let too_many = self.samples.len().saturating_sub(TAIL_MAX);
        let done_ms = now_ms.saturating_sub(late_ms);
        let too_old = self.samples.partition_point(|sample| sample.key.time_ms < done_ms);
        for sample in self.samples.drain(..too_many.max(too_old)) {
            step(base, sample);
            self.floor = Some(sample.key);
        }
        let mut now = base.clone();
        for sample in &self.samples {
            step(&mut now, *sample);
        }
        Ok(now)
    }
}

fn step_run(run: &mut Option<Run>, time_ms: i64, is_met: bool, gap_ms: i64) {
    *run = match *run {
        _ if !is_met => None,
        Some(run) if time_ms.saturating_sub(run.last_ms) <= gap_ms => {
            Some(Run { last_ms: time_ms, count: run.count.saturating_add(1), ..run })
        }
        _ => Some(Run { since_ms: time_ms, last_ms: time_ms, count: 1 }),
    };
}

fn judge_run(run: Option<Run>, hold_ms: i64, value: f64, now_ms: i64) -> Verdict {
    let active = run.is_some_and(|run| now_ms.saturating_sub(run.since_ms) >= hold_ms);
    let since_ms = run.map_or(now_ms, |run| run.since_ms);
    Verdict { active, value, count: run.map_or(0, |run| run.count), window_ms: (since_ms, now_ms) }
}

impl Slope {
    fn step(&mut self, sample: Sample, over_ms: i64) {
        let (time_ms, value) = (sample.key.time_ms, sample.value);
        let apart_ms = (over_ms / POINTS).max(1);
        if self.points.last().is_none_or(|(last_ms, _)| time_ms.saturating_sub(*last_ms) >= apart_ms) {
            self.points.push((time_ms, value));
        }
        let start_ms = time_ms.saturating_sub(over_ms);
        let too_old = self.points.partition_point(|(time_ms, _)| *time_ms < start_ms);
        self.points.drain(..too_old);
        self.last = Some((time_ms, value));
    }

    fn judge(&self, side: Side, limit: f64, per_ms: i64, over_ms: i64) -> Verdict {
        let (Some((base_ms, base)), Some((now_ms, value))) = (self.points.first().copied(), self.last) else {
            return Verdict { active: false, value: 0.0, count: 0, window_ms: (0, 0) };
        };
        let span_ms = now_ms.saturating_sub(base_ms);
        let is_long = span_ms > 0 && span_ms.saturating_mul(2) >= over_ms;
        #[allow(clippy::cast_precision_loss, reason = "at most 366 days")]
        let rate = if is_long { (value - base) / span_ms as f64 * per_ms as f64 } else { 0.0 };
        // A change so quick that it is no number is beyond any limit, but nothing that JSON can say.
        let rate = rate.clamp(f64::MIN, f64::MAX);
        let active = is_long && side.is_met(rate, limit);
        Verdict { active, value: rate, count: u32::from(active), window_ms: (base_ms, now_ms) }
    }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
