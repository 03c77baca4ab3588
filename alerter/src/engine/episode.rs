//! From verdicts to episodes: `keep-firing`, `flapping` and `repeat-every`. Pure; the same for every kind.

use crate::rules::Modifiers;

/// An episode under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Firing {
    /// Since when the condition no longer holds.
    pub(crate) cleared_ms: Option<i64>,
    /// When it was said last.
    pub(crate) said_ms: i64,
    /// How many times it was repeated.
    pub(crate) repeat: u32,
    /// It does not end before it is calm.
    pub(crate) flapping: bool,
}

/// What is known of the episodes of a rule on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Episode {
    /// The last verdict.
    pub(crate) active: bool,
    /// When the last episode began.
    pub(crate) onset_ms: Option<i64>,
    pub(crate) firing: Option<Firing>,
    /// When the verdict changed last, oldest first; empty without `flapping`.
    pub(crate) flips: Vec<i64>,
}

/// What there is to say, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The episode with this onset has ended.
    pub(crate) resolved: Option<i64>,
    /// An episode has begun.
    pub(crate) raised: Option<Raise>,
    /// The episode goes on.
    pub(crate) repeated: Option<Raise>,
    /// An episode would have begun, had it not been flapping.
    pub(crate) suppressed: bool,
}

/// What a firing record says of its episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raise {
    pub(crate) onset_ms: i64,
    pub(crate) flapping: bool,
    pub(crate) repeat: u32,
}

impl Episode {
    /// Takes in a verdict at a time that does not lie before that of the last one.
    pub(crate) fn observe(&mut self, modifiers: &Modifiers, now_ms: i64, active: bool) -> Said {
        let mut said = Said::default();
        if self.has_ended(modifiers, now_ms) {
            said.resolved = self.end();
        }
        let flipped = active != self.active;
        self.active = active;
        if flipped {
            self.flip(modifiers, now_ms);
        }
        match (&mut self.firing, active) {
            (None, false) => {}
            (None, true) => said.raised = Some(self.begin(modifiers, now_ms)),
            (Some(firing), true) => {
                firing.cleared_ms = None;
                said.suppressed = firing.flapping && flipped;
                if firing.flapping && is_calm(&self.flips, modifiers, now_ms) {
                    firing.flapping = false;
                }
                said.repeated = self.repeat(modifiers, now_ms);
            }
            (Some(firing), false) => {
                firing.cleared_ms.get_or_insert(now_ms);
                if self.has_ended(modifiers, now_ms) {
                    said.resolved = self.end();
                }
            }
        }
        said
    }

    /// Whether an episode whose condition no longer holds has been kept long enough.
    fn has_ended(&self, modifiers: &Modifiers, now_ms: i64) -> bool {
        let Some(Firing { cleared_ms: Some(cleared_ms), flapping, .. }) = self.firing else { return false };
        now_ms.saturating_sub(cleared_ms) >= modifiers.keep_ms
            && (!flapping || is_calm(&self.flips, modifiers, now_ms))
    }

    /// Ends the episode under way and says its onset.
    pub(crate) fn end(&mut self) -> Option<i64> {
        self.firing.take().and(self.onset_ms)
    }

    fn flip(&mut self, modifiers: &Modifiers, now_ms: i64) {
        if let Some(flapping) = modifiers.flapping {
            self.flips.push(now_ms);
            let too_many = self.flips.len().saturating_sub(flapping.flips + 1);
            self.flips.drain(..too_many);
        }
    }

    fn begin(&mut self, modifiers: &Modifiers, now_ms: i64) -> Raise {
        // Two episodes of one millisecond must not have one id.
        let onset_ms = self.onset_ms.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)));
        let flapping = modifiers.flapping.is_some_and(|flapping| {
            let start_ms = now_ms.saturating_sub(flapping.window_ms);
            self.flips.iter().filter(|flip| **flip > start_ms).count() > flapping.flips
        });
        self.onset_ms = Some(onset_ms);
        self.firing = Some(Firing { cleared_ms: None, said_ms: now_ms, repeat: 0, flapping });
        Raise { onset_ms, flapping, repeat: 0 }
    }

    /// Says the episode again, if it is time.
    pub(crate) fn repeat(&mut self, modifiers: &Modifiers, now_ms: i64) -> Option<Raise> {
        let (firing, onset_ms) = (self.firing.as_mut()?, self.onset_ms?);
        if now_ms.saturating_sub(firing.said_ms) < modifiers.repeat_ms? {
            return None;
        }
        firing.said_ms = now_ms;
        firing.repeat = firing.repeat.saturating_add(1);
        Some(Raise { onset_ms, flapping: firing.flapping, repeat: firing.repeat })
    }
}

/// Whether the verdict has not changed for the whole window of `flapping`.
fn is_calm(flips: &[i64], modifiers: &Modifiers, now_ms: i64) -> bool {
    let Some(flapping) = modifiers.flapping else { return true };
    flips.last().is_none_or(|last| now_ms.saturating_sub(*last) >= flapping.window_ms)
}
