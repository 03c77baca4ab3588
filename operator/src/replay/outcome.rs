//! What a replay would do, and what it has done.

use std::io::{self, Write};

use serde::Serialize;

use super::Replay;
use super::copy::Month;
use super::ranges::Ranges;
use crate::rfc3339;
use crate::text::{columns, counted, thousands};

/// What a replay would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// From when on, if asked for: milliseconds since the Unix epoch.
    pub from_ms: Option<i64>,
    /// Until when, if asked for.
    pub to_ms: Option<i64>,
    /// For each partition the first offset that is rebuilt, and the one behind the last.
    pub ranges: Vec<(u64, u64)>,
    /// Offsets that are rebuilt; nearly as many records.
    pub offsets: u64,
    /// Rows with these offsets, which are replaced.
    pub rows_in_range: u64,
    /// Months of the table.
    pub months: Vec<MonthPlan>,
    /// Rows of the time asked for that are kept as they are because Kafka does not hold their records any more.
    pub not_in_kafka: u64,
    /// A replay was interrupted after it had exchanged the tables; it is finished first.
    pub finishes_another: bool,
}

/// A month of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MonthPlan {
    /// Year and month, e.g. 202609.
    pub month: String,
    /// Rows in it.
    pub rows: u64,
    /// Those of them that are replaced.
    pub rows_in_range: u64,
}

impl Plan {
    pub(super) fn new(
        replay: &Replay,
        ranges: &Ranges,
        months: &[Month],
        not_in_kafka: u64,
        finishes_another: bool,
    ) -> Self {
        Self {
            from_ms: replay.from.map(|from| from.ms),
            to_ms: replay.to.map(|to| to.ms),
            ranges: ranges.0.clone(),
            offsets: ranges.offsets(),
            rows_in_range: months.iter().map(|month| month.inside).sum(),
            months: months
                .iter()
                .map(|Month { id, rows, inside }| MonthPlan {
                    month: id.clone(),
                    rows: *rows,
                    rows_in_range: *inside,
                })
                .collect(),
            not_in_kafka,
            finishes_another,
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.months.iter().map(|month| month.rows).sum()
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let time = |ms: Option<i64>, none: &str| ms.map_or_else(|| none.to_owned(), rfc3339);
        let partitions = self.ranges.iter().filter(|(from, to)| from < to).count() as u64;
        writeln!(
            out,
            "from {} to {}: {} of {}",
            time(self.from_ms, "the oldest record"),
            time(self.to_ms, "what the writer has committed"),
            counted(self.offsets, "offset"),
            counted(partitions, "partition")
        )?;
        let mut table = vec![["month", "replaced", "kept"].map(str::to_owned).to_vec()];
        table.extend(self.months.iter().map(|month| {
            let kept = month.rows.saturating_sub(month.rows_in_range);
            vec![month.month.clone(), thousands(month.rows_in_range), thousands(kept)]
        }));
        columns(&table).iter().try_for_each(|line| writeln!(out, "  {line}"))?;
        print_not_in_kafka(out, self.not_in_kafka)?;
        if self.finishes_another {
            writeln!(
                out,
                "a replay was interrupted after it had exchanged the tables: it is finished first"
            )?;
        }
        Ok(())
    }
}

fn print_not_in_kafka(out: &mut dyn Write, rows: u64) -> io::Result<()> {
    if rows > 0 {
        let rows = counted(rows, "row");
        writeln!(out, "{rows} of that time kept untouched because Kafka no longer holds their records")?;
    }
    Ok(())
}

/// What a replay has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Records of the ranges that were read.
    pub records: u64,
    /// Rows made of them.
    pub rows_rebuilt: u64,
    /// Records that are no rows: they are dead letters.
    pub skipped: u64,
    /// Readings that had a row in the ranges and have no record.
    pub rows_dropped: u64,
    /// Rows outside of the ranges.
    pub rows_kept: u64,
    /// Those of them of the time asked for whose records Kafka does not hold any more.
    pub not_in_kafka: u64,
    /// For how long writers were held up, in seconds.
    pub held_s: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Name of the old table, if it is kept.
    pub kept_as: Option<String>,
    /// The replay that was interrupted after its exchange and has been finished.
    pub finished: Option<String>,
    /// Shadow tables of interrupted replays that were dropped.
    pub dropped_left_over: u64,
}

impl Outcome {
    /// Writes it for people.
    ///
    /// # Errors
    /// Where `out` cannot be written to.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(id) = &self.finished {
            writeln!(out, "replay {id}, which had been interrupted, is finished")?;
        }
        if self.records == 0 {
            writeln!(
                out,
                "nothing to rebuild: no records of that time, or none that the writer has committed"
            )?;
            return print_not_in_kafka(out, self.not_in_kafka);
        }
        let table = [
            ("records read", self.records),
            ("rows rebuilt", self.rows_rebuilt),
            ("rows kept", self.rows_kept),
            ("rows dropped, without a record", self.rows_dropped),
            ("records skipped, as dead letters", self.skipped),
        ];
        let table = table.map(|(what, count)| vec![what.to_owned(), thousands(count)]);
        columns(&table).iter().try_for_each(|line| writeln!(out, "{line}"))?;
        print_not_in_kafka(out, self.not_in_kafka)?;
        if let Some(name) = &self.kept_as {
            writeln!(out, "the old table is kept as {name}")?;
        }
        writeln!(
            out,
            "done in {:.1} s; writers were held up for {:.2} s of it; rollups follow with the writer's next refreshes",
            self.seconds, self.held_s
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(print: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plan_names_months_and_what_is_kept() {
        let months = [Month { id: "202609".to_owned(), rows: 1_500, inside: 1_000 }];
        let plan = Plan::new(&Replay::default(), &Ranges(vec![(5, 10), (0, 0)]), &months, 3, false);
        assert_eq!(
            text(|out| plan.print(out)),
            "from the oldest record to what the writer has committed: 5 offsets of 1 partition\n  \
             month   replaced  kept\n  202609  1,000     500\n\
             3 rows of that time kept untouched because Kafka no longer holds their records\n"
        );
    }

    #[test]
    fn an_outcome_counts_everything() {
        let outcome =
            Outcome { records: 12, rows_rebuilt: 10, skipped: 2, held_s: 0.25, ..Outcome::default() };
        let text = text(|out| outcome.print(out));
        assert!(text.starts_with("records read                      12\nrows rebuilt"), "{text}");
        assert!(text.contains("writers were held up for 0.25 s"), "{text}");
    }
}
