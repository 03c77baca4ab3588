//! Moments as an operator writes and reads them.

use std::str::FromStr;

use jiff::Timestamp;

/// A moment: milliseconds since the Unix epoch. Written as RFC 3339 (`2026-01-31T12:00:00Z`) or as how long ago
/// (`90s`, `30m`, `2h`, `7d`, `4w`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub ms: i64,
}

const EXPECTED: &str =
    "write a time as RFC 3339, e.g. 2026-01-31T12:00:00Z, or how long ago it is, e.g. 90s, 30m, 2h, 7d, 4w";

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { ms: Timestamp::now().as_millisecond() }
    }

    /// Reads a moment; what is relative is relative to `now`.
    ///
    /// # Errors
    /// What is expected, where the text is neither.
    pub fn parse(text: &str, now: Self) -> Result<Self, String> {
        if let Some(ago_ms) = ago_ms(text) {
            return now.ms.checked_sub(ago_ms).map(|ms| Self { ms }).ok_or_else(|| EXPECTED.to_owned());
        }
        text.parse::<Timestamp>()
            .map(|time| Self { ms: time.as_millisecond() })
            .map_err(|_| EXPECTED.to_owned())
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, Self::now())
    }
}

fn ago_ms(text: &str) -> Option<i64> {
    let (at, unit) = text.char_indices().last()?;
    let unit_ms = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 24 * 3_600_000,
        'w' => 7 * 24 * 3_600_000,
        _ => return None,
    };
    let digits = text.get(..at)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(unit_ms)
}

/// Milliseconds since the Unix epoch as RFC 3339 with milliseconds, in UTC; as a number where that has no such form.
pub fn rfc3339(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment { ms: 1_790_000_000_000 };

    #[test]
    fn how_long_ago_and_rfc_3339_are_moments() {
        let ms = |text| Moment::parse(text, NOW).unwrap().ms;
        assert_eq!(ms("0s"), NOW.ms);
        assert_eq!(ms("90s"), NOW.ms - 90_000);
        assert_eq!(ms("30m"), NOW.ms - 1_800_000);
        assert_eq!(ms("2h"), NOW.ms - 7_200_000);
        assert_eq!(ms("7d"), NOW.ms - 604_800_000);
        assert_eq!(ms("1w"), ms("7d"));
        assert_eq!(ms("1970-01-01T00:00:01Z"), 1_000);
        assert_eq!(ms("1970-01-01T01:00:00.250+01:00"), 250);
    }

    #[test]
    fn everything_else_is_refused_with_what_is_expected() {
        for text in
            ["", "h", "2", "-2h", "+2h", "2 h", "2y", "99999999999999999d", "yesterday", "2026-01-31", "2é"]
        {
            assert_eq!(Moment::parse(text, NOW), Err(EXPECTED.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        assert_eq!(rfc3339(1_790_000_000_123), "2026-09-21T14:13:20.123Z");
        assert_eq!(rfc3339(i64::MIN), format!("{} ms", i64::MIN));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Moment::parse(&text, NOW);
        }
    }
}
