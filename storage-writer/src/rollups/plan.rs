//! What a refresh has to do, from numbers alone. Pure.

use std::collections::BTreeMap;

/// Slices of time begin and end at multiples of this.
pub(super) const SLOT_S: i64 = 300;
const HOUR_S: i64 = 3_600;
const MONTH_S: i64 = 30 * 24 * HOUR_S;
/// More slices are joined where they lie in the same 30 days.
const SLICES_MAX: usize = 32;

/// Kafka offsets of one partition, `from` included, `to` not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) partition: u16,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Span {
    pub(super) const fn offsets(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// What `rollup_progress` says of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) next_offset: u64,
    /// The greatest version given so far, in milliseconds.
    pub(super) version: i64,
}

/// What is covered by the caller and not by the rollups.
pub(super) fn open(covered: &[(u16, u64)], progress: &BTreeMap<u16, Progress>) -> Vec<Span> {
    let mut to: BTreeMap<u16, u64> = BTreeMap::new();
    for &(partition, next_offset) in covered {
        let to = to.entry(partition).or_default();
        *to = next_offset.max(*to);
    }
    to.into_iter()
        .map(|(partition, to)| {
            let from = progress.get(&partition).map_or(0, |progress| progress.next_offset);
            Span { partition, from, to }
        })
        .filter(|span| span.from < span.to)
        .collect()
}

/// Offsets over all spans.
pub(super) fn offsets(spans: &[Span]) -> u64 {
    spans.iter().map(Span::offsets).fold(0, u64::saturating_add)
}

/// Leaves out offsets below the first that is stored. A partition without one keeps nothing.
pub(super) fn begin_at_first(spans: &[Span], first: &BTreeMap<u16, u64>) -> Vec<Span> {
    spans
        .iter()
        .map(|span| {
            let first = first.get(&span.partition).copied().unwrap_or(span.to);
            Span { from: first.clamp(span.from, span.to), ..*span }
        })
        .filter(|span| span.from < span.to)
        .collect()
}

/// Cuts spans into rounds of `offsets_max` offsets or less over all partitions. Every partition advances at its own
/// pace and all arrive together: offsets of one round were received at about the same time, so that their readings
/// lie close together in the table too.
pub(super) fn rounds(spans: &[Span], offsets_max: u64) -> impl Iterator<Item = Vec<Span>> {
    let count = offsets(spans).div_ceil(offsets_max.max(1));
    (0..count).map(move |round| {
        let at = |span: &Span, n: u64| {
            let part = u128::from(span.offsets()) * u128::from(n) / u128::from(count);
            // No more than the length of the span.
            span.from + u64::try_from(part).unwrap_or(u64::MAX)
        };
        let part = |span: &Span| Span { from: at(span, round), to: at(span, round + 1), ..*span };
        spans.iter().map(part).filter(|span| span.from < span.to).collect()
    })
}

/// The next version: greater than every earlier one, whatever the clock does; the time, if the clock goes on.
pub(super) fn next_version(now_ms: i64, last: i64) -> i64 {
    now_ms.max(last.saturating_add(1))
}

/// A time range, in seconds since 1970, `from` included, `to` not, with the rows in it that are to be covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) from_s: i64,
    pub(super) to_s: i64,
    pub(super) rows: u64,
    /// Whether it is the one around the time that most rows are of.
    pub(super) busiest: bool,
}

/// Joins slices of the same 30 days if there are very many. The busiest stays alone.
pub(super) fn few(mut slices: Vec<Slice>) -> Vec<Slice> {
    slices.sort_unstable_by_key(|slice| slice.from_s);
    if slices.len() <= SLICES_MAX {
        return slices;
    }
    let mut joined: Vec<Slice> = Vec::new();
    for slice in slices {
        match joined.last_mut() {
            Some(last)
                if !last.busiest
                    && !slice.busiest
                    && last.from_s.div_euclid(MONTH_S) == slice.from_s.div_euclid(MONTH_S) =>
            {
                last.to_s = slice.to_s;
                last.rows = last.rows.saturating_add(slice.rows);
            }
            _ => joined.push(slice),
        }
    }
    joined
}

/// The whole hours that slices touch, each hour in one slice only. An hour that the busiest slice touches belongs to
/// it alone: the others are of few devices and much time, and would make every device's time be read.
pub(super) fn hours(slices: &[Slice]) -> Vec<Slice> {
    let whole = |slice: &Slice| Slice {
        from_s: slice.from_s.div_euclid(HOUR_S) * HOUR_S,
        to_s: (slice.to_s + HOUR_S - 1).div_euclid(HOUR_S) * HOUR_S,
        ..*slice
    };
    let mut busiest = slices.iter().find(|slice| slice.busiest).map(whole);
    let mut hours: Vec<Slice> = Vec::new();
    for slice in slices.iter().filter(|slice| !slice.busiest).map(whole) {
        let mut pieces = vec![slice];
        if let Some(busiest) = &mut busiest
            && slice.from_s < busiest.to_s
            && busiest.from_s < slice.to_s
        {
            busiest.rows = busiest.rows.saturating_add(slice.rows);
            pieces = vec![Slice { to_s: busiest.from_s, ..slice }, Slice { from_s: busiest.to_s, ..slice }];
        }
        for mut piece in pieces {
            // Hours of two slices can meet: they were parted at a multiple of a slot.
            if let Some(last) = hours.last_mut().filter(|last| piece.from_s < last.to_s) {
                last.rows = last.rows.saturating_add(piece.rows);
                piece.from_s = last.to_s;
            }
            if piece.from_s < piece.to_s {
                hours.push(piece);
            }
        }
    }
    hours.extend(busiest);
    hours
}

/// Devices from one (not included) to another (included), as text of a UUID. `None`: no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) after: Option<String>,
    pub(super) up_to: Option<String>,
}

/// Everybody, parted behind each of `cuts`.
pub(super) fn parted(cuts: &[String]) -> Vec<Devices> {
    let mut parts = Vec::with_capacity(cuts.len() + 1);
    let mut after = None;
    for cut in cuts {
        parts.push(Devices { after: after.replace(cut.clone()), up_to: Some(cut.clone()) });
    }
    parts.push(Devices { after, up_to: None });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(partition: u16, from: u64, to: u64) -> Span {
        Span { partition, from, to }
    }

    fn slice(from_s: i64, to_s: i64, busiest: bool) -> Slice {
        Slice { from_s, to_s, rows: 1, busiest }
    }

    #[test]
    fn what_is_open_begins_where_the_rollups_are() {
        let progress = [(1, Progress { next_offset: 7, version: 1 }), (2, Progress::default())].into();
        let open = open(&[(3, 4), (1, 9), (2, 0), (1, 8)], &progress);
        assert_eq!(open, [span(1, 7, 9), span(3, 0, 4)]);
    }

    #[test]
    fn progress_never_goes_back() {
        let progress = [(1, Progress { next_offset: 7, version: 1 })].into();
        assert_eq!(open(&[(1, 3)], &progress), []);
    }

    #[test]
    fn rounds_cover_every_offset_once_and_none_is_too_large() {
        for (spans, max) in [
            (vec![span(0, 0, 10), span(1, 5, 6), span(2, 100, 1_000)], 7),
            (vec![span(0, 0, 10)], 10),
            (vec![span(0, 3, 10), span(1, 0, 1)], 1),
            (vec![span(0, 0, u64::MAX), span(1, 0, u64::MAX)], u64::MAX),
        ] {
            let mut reached: BTreeMap<u16, u64> =
                spans.iter().map(|span| (span.partition, span.from)).collect();
            for round in rounds(&spans, max) {
                // Each partition's share may be rounded up.
                assert!(offsets(&round) <= max.saturating_add(spans.len() as u64), "{round:?}");
                for part in round {
                    let reached = reached.get_mut(&part.partition).unwrap();
                    assert_eq!(part.from, *reached);
                    *reached = part.to;
                }
            }
            assert!(spans.iter().all(|span| reached[&span.partition] == span.to), "{reached:?}");
        }
        assert_eq!(rounds(&[], 10).count(), 0);
    }

    #[test]
    fn offsets_that_are_not_stored_are_left_out() {
        let spans = [span(0, 0, 10), span(1, 5, 9), span(2, 0, 9)];
        let first = [(0, 4), (1, 0)].into();
        assert_eq!(begin_at_first(&spans, &first), [span(0, 4, 10), span(1, 5, 9)]);
    }

    #[test]
    fn versions_grow_though_the_clock_jumps_back() {
        assert_eq!(next_version(100, 50), 100);
        assert_eq!(next_version(100, 100), 101);
        assert_eq!(next_version(3, 101), 102);
    }

    #[test]
    fn very_many_slices_are_joined_by_month_but_not_the_busiest() {
        let day = 86_400;
        let mut slices: Vec<_> = (0..90).map(|n| slice(n * day, n * day + SLOT_S, false)).collect();
        slices[40].busiest = true;
        let joined = few(slices.clone());
        assert_eq!(joined.len(), 5);
        assert_eq!(joined.iter().map(|slice| slice.rows).sum::<u64>(), 90);
        assert!(joined.windows(2).all(|pair| pair[0].to_s <= pair[1].from_s));
        assert!(joined.contains(&slices[40]));
        assert_eq!(few(slices[..32].to_vec()).len(), 32);
    }

    #[test]
    fn every_touched_hour_is_in_one_slice() {
        // 00:05-13:55, 13:55-14:10 (busiest), 14:10-23:00, another day.
        let slices = [
            slice(300, 50_100, false),
            slice(50_100, 51_000, true),
            slice(51_000, 82_800, false),
            slice(100_000, 100_300, false),
        ];
        let hours: Vec<_> =
            hours(&slices).iter().map(|slice| (slice.from_s, slice.to_s, slice.rows)).collect();
        assert_eq!(hours, [(0, 46_800, 1), (54_000, 82_800, 1), (97_200, 100_800, 1), (46_800, 54_000, 3)]);
    }

    #[test]
    fn parts_of_the_devices_leave_nobody_out() {
        let device = |name: &str| Some(name.to_owned());
        assert_eq!(parted(&[]), [Devices::default()]);
        assert_eq!(
            parted(&["a".to_owned(), "b".to_owned()]),
            [
                Devices { after: None, up_to: device("a") },
                Devices { after: device("a"), up_to: device("b") },
                Devices { after: device("b"), up_to: None },
            ]
        );
    }
}
