//! One request to its end: posted again until it is delivered, refused for good or given up; what is refused is halved
//! until the bad alerts stand alone; what the receiver does not get becomes a dead letter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use penstock_proto::Reason;
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;
use penstock_service::config::{GroupBy, Notify};
use tokio_util::sync::CancellationToken;

use crate::controls::Controls;
use crate::desk::{Fate, Post};
use crate::http::Poster;
use crate::letters::{Abandoned, Letters};
use crate::metrics::Counts;
use crate::notice::{Item, Letter, Receiver, Why};
use crate::payload::{self, Circumstances};
use crate::verdict::Verdict;

/// Delivers to one receiver.
#[derive(Debug)]
pub(crate) struct Courier {
    receiver: Receiver,
    poster: Poster,
    letters: Letters,
    controls: Arc<ArcSwap<Controls>>,
    counts: Counts,
    condition: Condition,
    group_by: GroupBy,
    expire_ms: i64,
    link: String,
    give_up_after: Duration,
    backoff_ms: (u64, u64),
    abort: CancellationToken,
}

type Settled = Vec<(Item, Fate)>;

impl Courier {
    pub(crate) fn new(
        receiver: Receiver,
        poster: Poster,
        letters: Letters,
        controls: Arc<ArcSwap<Controls>>,
        counts: Counts,
        config: &Notify,
        abort: CancellationToken,
    ) -> Self {
        Self {
            receiver,
            poster,
            letters,
            controls,
            counts,
            condition: Condition::new(format!("posting alerts to the {receiver}")),
            group_by: config.group_by,
            expire_ms: i64::try_from(config.alertmanager_expire_ms).unwrap_or(i64::MAX),
            link: config.link.clone(),
            give_up_after: Duration::from_millis(config.give_up_after_ms),
            backoff_ms: (config.backoff_min_ms, config.backoff_max_ms),
            abort,
        }
    }

    pub(crate) const fn letters(&self) -> &Letters {
        &self.letters
    }

    /// Every item of the request and what became of it.
    ///
    /// # Errors
    /// The role ends before that is settled.
    pub(crate) async fn deliver(&self, post: Post) -> Result<Settled, Abandoned> {
        let mut settled = Vec::with_capacity(post.items.len());
        let mut parts = VecDeque::from([post.items]);
        while let Some(part) = parts.pop_front() {
            if let Some((front, back)) = self.deliver_part(&post.key, part, &mut settled).await? {
                // The order of an alert's records must stay.
                parts.push_front(back);
                parts.push_front(front);
            }
        }
        Ok(settled)
    }

    /// Settles all items, or halves them.
    async fn deliver_part(
        &self,
        key: &str,
        mut items: Vec<Item>,
        settled: &mut Settled,
    ) -> Result<Option<(Vec<Item>, Vec<Item>)>, Abandoned> {
        let mut backoff = Backoff::new(self.backoff_ms.0, self.backoff_ms.1);
        if self.condition.is_failing() {
            // A receiver that is away need not be asked for each alert whose time is up.
            let why = "the receiver did not work while the alert waited".to_owned();
            items = self.give_up(items, &why, settled).await?;
        }
        while !items.is_empty() {
            match self.post(key, &items).await? {
                Verdict::Delivered => {
                    self.delivered(items, settled);
                    return Ok(None);
                }
                Verdict::Refused(detail) if items.len() > 1 => {
                    tracing::warn!(
                        receiver = self.receiver.name(),
                        alerts = items.len(),
                        "refused: {detail}"
                    );
                    let back = items.split_off(items.len() / 2);
                    return Ok(Some((items, back)));
                }
                Verdict::Refused(detail) => {
                    self.to_letters(items, Reason::RefusedByReceiver, &detail, settled).await?;
                    return Ok(None);
                }
                Verdict::Retry { after, detail, .. } => {
                    if items.iter().all(|item| item.why != Why::News) {
                        settled.extend(items.into_iter().map(|item| (item, Fate::Skipped)));
                        return Ok(None);
                    }
                    items = self.give_up(items, &detail, settled).await?;
                    let pause = backoff.next().max(after.unwrap_or_default());
                    self.pause(pause.min(self.left(&items))).await?;
                }
            }
        }
        Ok(None)
    }

    /// How long the oldest may still be tried.
    fn left(&self, items: &[Item]) -> Duration {
        let left = |item: &Item| self.give_up_after.saturating_sub(item.since.elapsed());
        items.iter().filter(|item| item.why == Why::News).map(left).min().unwrap_or_default()
    }

    async fn pause(&self, pause: Duration) -> Result<(), Abandoned> {
        tokio::select! {
            biased;
            () = self.abort.cancelled() => Err(Abandoned),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    async fn post(&self, key: &str, items: &[Item]) -> Result<Verdict, Abandoned> {
        let body = {
            let controls = self.controls.load();
            let now_ms = Timestamp::now().as_millisecond();
            let circumstances = Circumstances { now_ms, controls: &controls, link: &self.link };
            match self.receiver {
                Receiver::Alertmanager => payload::alertmanager(items, self.expire_ms, &circumstances),
                Receiver::Webhook => payload::webhook(items, self.group_by, key, &circumstances),
            }
        };
        let began = Instant::now();
        let verdict = tokio::select! {
            biased;
            () = self.abort.cancelled() => return Err(Abandoned),
            verdict = self.poster.post(body) => verdict,
        };
        let outcome = match &verdict {
            Verdict::Delivered => {
                self.condition.worked();
                "delivered"
            }
            Verdict::Refused(_) => {
                self.condition.worked();
                "refused"
            }
            Verdict::Retry { kind, detail, .. } => {
                self.condition.failed(kind, false, detail);
                kind
            }
        };
        self.counts.request(outcome, began.elapsed().as_secs_f64());
        Ok(verdict)
    }

    fn delivered(&self, items: Vec<Item>, settled: &mut Settled) {
        let news = items.iter().filter(|item| item.why == Why::News).count() as u64;
        self.counts.alerts("delivered", news);
        self.counts.reminded(items.len() as u64 - news);
        settled.extend(items.into_iter().map(|item| (item, Fate::Delivered)));
    }

    /// Gives up what was tried for long enough; what is left is tried on.
    async fn give_up(
        &self,
        items: Vec<Item>,
        detail: &str,
        settled: &mut Settled,
    ) -> Result<Vec<Item>, Abandoned> {
        let is_over = |item: &Item| item.why == Why::News && item.since.elapsed() >= self.give_up_after;
        let (over, left): (Vec<_>, Vec<_>) = items.into_iter().partition(is_over);
        self.to_letters(over, Reason::Undelivered, detail, settled).await?;
        Ok(left)
    }

    async fn to_letters(
        &self,
        items: Vec<Item>,
        reason: Reason,
        detail: &str,
        settled: &mut Settled,
    ) -> Result<(), Abandoned> {
        let fate = if reason == Reason::Undelivered { Fate::GivenUp } else { Fate::Refused };
        for item in items {
            if item.why == Why::News {
                self.letters.send(&Letter::of(&item.notice, reason, detail.to_owned())).await?;
                self.counts.alerts(if fate == Fate::GivenUp { "given-up" } else { "refused" }, 1);
            }
            settled.push((item, fate));
        }
        Ok(())
    }
}
