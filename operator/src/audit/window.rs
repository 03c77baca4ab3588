//! What may stand at an offset, compared for some hundred thousand offsets of a partition at a time. Pure.
//!
//! Three sorted streams meet here: the offsets of Kafka's records, those of ClickHouse's rows, those of dead letters.
//! Rows come first, as a bitmap of a window of offsets; records are then only looked up, so none has to be held.

use std::ops::Range;

use roaring::RoaringTreemap;

/// Offsets in a window: 32 KiB a bitmap.
pub(crate) const WINDOW_OFFSETS: u64 = 1 << 18;

/// A set of offsets in a range.
#[derive(Clone, Debug)]
struct Bitmap {
    /// The offset of the first bit: a multiple of 64.
    base: u64,
    words: Vec<u64>,
}

impl Bitmap {
    fn covering(range: &Range<u64>) -> Self {
        let base = range.start / 64 * 64;
        let words = range.end.saturating_sub(base).div_ceil(64);
        Self { base, words: vec![0; usize::try_from(words).unwrap_or(0)] }
    }

    fn place(&self, offset: u64) -> Option<(usize, u64)> {
        let word = usize::try_from(offset.checked_sub(self.base)? / 64).ok()?;
        (word < self.words.len()).then_some((word, 1 << (offset % 64)))
    }

    fn insert(&mut self, offset: u64) {
        if let Some((word, bit)) = self.place(offset) {
            self.words[word] |= bit;
        }
    }

    fn contains(&self, offset: u64) -> bool {
        self.place(offset).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Adds the offsets `64 * number + n` for each bit `n` that is set.
    fn insert_word(&mut self, number: u64, bits: u64) {
        let index = number.checked_sub(self.base / 64).and_then(|index| usize::try_from(index).ok());
        if let Some(word) = index.and_then(|index| self.words.get_mut(index)) {
            *word |= bits;
        }
    }
}

/// The bits of word `number` whose offsets are in `range`.
fn mask(number: u64, range: &Range<u64>) -> u64 {
    let base = number.saturating_mul(64);
    let ones_from = |offset: u64| match offset.saturating_sub(base) {
        shift @ 0..64 => u64::MAX << shift,
        _ => 0,
    };
    ones_from(range.start) & !ones_from(range.end)
}

/// What stands at the offset of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A row and no letter, or a letter and no row: as it must be.
    Kept,
    /// A row and a letter.
    RowAndLetter,
    /// Neither.
    Neither,
}

/// Some offsets of one partition, and what stands at them.
#[derive(Debug)]
pub(crate) struct Window {
    range: Range<u64>,
    rows: Bitmap,
    records: Bitmap,
    /// Rows beyond the first at an offset.
    extra_rows: u64,
    has_letters: bool,
}

/// How many offsets of a window have what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) offsets: u64,
    pub(crate) records: u64,
    pub(crate) rows: u64,
}

impl Window {
    /// The part of `range` from `start` to the next multiple of [`WINDOW_OFFSETS`].
    pub(crate) fn first_of(range: &Range<u64>) -> Range<u64> {
        let end = (range.start / WINDOW_OFFSETS + 1).saturating_mul(WINDOW_OFFSETS);
        range.start..end.min(range.end)
    }

    /// A window without rows yet. `letters`: those of its partition.
    pub(crate) fn new(range: Range<u64>, letters: &RoaringTreemap) -> Self {
        let bitmap = Bitmap::covering(&range);
        let has_letters = letters.range_cardinality(range.clone()) > 0;
        Self { records: bitmap.clone(), rows: bitmap, range, extra_rows: 0, has_letters }
    }

    pub(crate) const fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// Takes up that rows stand at the offsets `64 * number + n` for each bit `n` that is set; offsets outside of the
    /// window are passed over.
    pub(crate) fn rows_at(&mut self, number: u64, bits: u64) {
        let bits = bits & mask(number, &self.range);
        if bits != 0 {
            self.rows.insert_word(number, bits);
        }
    }

    /// Takes up that more than one row stands at an offset.
    pub(crate) const fn more_rows(&mut self, extra: u64) {
        self.extra_rows += extra;
    }

    /// Takes up a record.
    pub(crate) fn record(&mut self, offset: u64, letters: &RoaringTreemap) -> Standing {
        self.records.insert(offset);
        let has_letter = self.has_letters && letters.contains(offset);
        match (self.rows.contains(offset), has_letter) {
            (true, false) | (false, true) => Standing::Kept,
            (true, true) => Standing::RowAndLetter,
            (false, false) => Standing::Neither,
        }
    }

    /// Offsets with a row and without a record, after the last record of the window.
    pub(crate) fn rows_without_record(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.rows.words.iter().zip(&self.records.words).enumerate();
        words.flat_map(|(index, (rows, records))| {
            let base = self.rows.base + 64 * index as u64;
            let mut left = rows & !records;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(base + u64::from(bit))
            })
        })
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            offsets: self.range.end - self.range.start,
            records: self.records.count(),
            rows: self.rows.count() + self.extra_rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the audit says about offsets, one at a time and by the definition.
    fn by_definition(
        range: Range<u64>,
        records: &BTreeSet<u64>,
        rows: &BTreeSet<u64>,
        letters: &BTreeSet<u64>,
    ) -> Vec<(&'static str, u64)> {
        let mut found = Vec::new();
        for offset in range {
            let at = |set: &BTreeSet<u64>| set.contains(&offset);
            match (at(records), at(rows), at(letters)) {
                (true, false, false) => found.push(("missing", offset)),
                (true, true, true) => found.push(("row-and-letter", offset)),
                (false, true, _) => found.push(("row-without-record", offset)),
                _ => {}
            }
        }
        found
    }

    /// The same as the audit does it: rows word by word, records as they come, windows in between.
    fn by_windows(
        range: Range<u64>,
        records: &BTreeSet<u64>,
        rows: &BTreeSet<u64>,
        letters: &BTreeSet<u64>,
    ) -> (Vec<(&'static str, u64)>, Tally) {
        let letters: RoaringTreemap = letters.iter().copied().collect();
        let (mut found, mut sum, mut rest) = (Vec::new(), Tally::default(), range);
        while !rest.is_empty() {
            let mut window = Window::new(Window::first_of(&rest), &letters);
            let within = window.range().clone();
            rest.start = within.end;
            for row in rows {
                window.rows_at(row / 64, 1 << (row % 64));
            }
            for record in records.range(within) {
                match window.record(*record, &letters) {
                    Standing::Kept => {}
                    Standing::RowAndLetter => found.push(("row-and-letter", *record)),
                    Standing::Neither => found.push(("missing", *record)),
                }
            }
            found.extend(window.rows_without_record().map(|offset| ("row-without-record", offset)));
            let tally = window.tally();
            sum.offsets += tally.offsets;
            sum.records += tally.records;
            sum.rows += tally.rows;
        }
        found.sort_by_key(|(_, offset)| *offset);
        (found, sum)
    }

    proptest! {
        #[test]
        fn windows_find_what_the_definition_says(
            start in prop_oneof![0..200u64, WINDOW_OFFSETS - 150..WINDOW_OFFSETS + 50, Just((1 << 32) - 100)],
            length in 0..300u64,
            records in proptest::collection::btree_set(0..300u64, 0..200),
            rows in proptest::collection::btree_set(0..300u64, 0..200),
            letters in proptest::collection::btree_set(0..300u64, 0..60),
        ) {
            let range = start..start + length;
            let inside = |set: BTreeSet<u64>| -> BTreeSet<u64> {
                set.into_iter().filter(|offset| *offset < length).map(|offset| offset + start).collect()
            };
            let (records, rows, letters) = (inside(records), inside(rows), inside(letters));
            let (found, tally) = by_windows(range.clone(), &records, &rows, &letters);
            prop_assert_eq!(found, by_definition(range, &records, &rows, &letters));
            let expected = Tally { offsets: length, records: records.len() as u64, rows: rows.len() as u64 };
            prop_assert_eq!(tally, expected);
        }
    }

    #[test]
    fn windows_end_at_multiples_of_their_size() {
        assert_eq!(Window::first_of(&(5..10)), 5..10);
        assert_eq!(Window::first_of(&(5..WINDOW_OFFSETS + 9)), 5..WINDOW_OFFSETS);
        assert_eq!(
            Window::first_of(&(WINDOW_OFFSETS..WINDOW_OFFSETS + 9)),
            WINDOW_OFFSETS..WINDOW_OFFSETS + 9
        );
    }

    #[test]
    fn rows_outside_of_a_window_are_passed_over() {
        let mut window = Window::new(100..200, &RoaringTreemap::new());
        (0..10).for_each(|number| window.rows_at(number, u64::MAX));
        let without: Vec<_> = window.rows_without_record().collect();
        assert_eq!(without, (100..200).collect::<Vec<_>>());
        window.more_rows(2);
        assert_eq!(window.tally(), Tally { offsets: 100, records: 0, rows: 102 });
        window.rows_at(u64::MAX, u64::MAX);
        assert_eq!(window.tally().rows, 102);
    }
}
