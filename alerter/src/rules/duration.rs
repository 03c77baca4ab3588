//! Durations as people write them: `90s`, `5m`, `1h30m`. Pure.

/// Longer ones are taken for mistakes.
pub(crate) const MS_MAX: i64 = 366 * DAY_MS;

const DAY_MS: i64 = 24 * 3_600_000;
const UNITS: [(&str, i64); 5] = [("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Milliseconds of a duration from 1 ms to 366 days; larger units come first, each at most once.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let mut rest = text;
    let (mut total, mut smallest) = (0i64, i64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at(letters);
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
        if *unit_ms >= smallest {
            return None;
        }
        smallest = *unit_ms;
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(*unit_ms)?)?;
        rest = behind;
    }
    (1..=MS_MAX).contains(&total).then_some(total)
}

/// The shortest form that [`parse`] reads as the same.
pub(crate) fn format(ms: i64) -> String {
    let (mut rest, mut text) = (ms.max(0), String::new());
    for (unit, unit_ms) in UNITS {
        if rest >= unit_ms {
            text.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse("5m"), Some(300_000));
        assert_eq!(parse("1h30m"), Some(5_400_000));
        assert_eq!(parse("1d2h3m4s5ms"), Some(93_784_005));
        assert_eq!(parse("250ms"), Some(250));
        for wrong in
            ["", "5", "m", "5x", "0s", "-5m", "5 m", "30m1h", "5m5m", "367d", "1.5h", "99999999999999999h"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_reads_the_same(ms in 1..=MS_MAX) {
            prop_assert_eq!(parse(&format(ms)), Some(ms));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
