//! Bytes of strangers as text on a terminal. Pure.

/// At most `chars_max` characters of `bytes` as text on one line: what is not UTF-8 is replaced, control characters
/// are escaped (a terminal would obey them), what is left out ends in `…`.
pub(crate) fn printable(bytes: &[u8], chars_max: usize) -> String {
    // A character has at most 4 bytes, so more is not looked at.
    let head = &bytes[..bytes.len().min(chars_max.saturating_mul(4).saturating_add(4))];
    let mut text = String::new();
    for (count, character) in String::from_utf8_lossy(head).chars().enumerate() {
        if count == chars_max {
            text.push('…');
            return text;
        }
        if character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// The bytes that a dump shows, 16 a line: offset, hexadecimal, text.
pub(crate) fn hexdump(bytes: &[u8], bytes_max: usize) -> Vec<String> {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    let mut lines: Vec<String> = shown
        .chunks(16)
        .enumerate()
        .map(|(line, chunk)| {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let text: String = chunk
                .iter()
                .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
                .collect();
            format!("{:08x}  {:<47}  |{text}|", line * 16, hex.join(" "))
        })
        .collect();
    if shown.len() < bytes.len() {
        lines.push(format!("… {} of {} bytes; --bytes shows more", shown.len(), bytes.len()));
    }
    lines
}

/// A number with commas between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things, the word in singular or plural.
pub(crate) fn counted(number: u64, word: &str) -> String {
    format!("{} {word}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// Rows as columns of equal width, two spaces between them; the last column is not padded.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_and_length_are_tamed() {
        assert_eq!(printable(b"plain", 10), "plain");
        assert_eq!(printable(b"\x1b[2J\n", 20), "\\u{1b}[2J\\n");
        assert_eq!(printable(b"abcdef", 3), "abc…");
        assert_eq!(printable(b"\xff\xfe", 10), "\u{fffd}\u{fffd}");
        assert_eq!(printable("\u{202e}gpj".as_bytes(), 10), "\\u{202e}gpj");
    }

    #[test]
    fn a_dump_is_bounded_and_says_so() {
        assert_eq!(
            hexdump(b"AB\x00", 10),
            ["00000000  41 42 00                                         |AB.|"]
        );
        let lines = hexdump(&[0; 100], 32);
        assert_eq!((lines.len(), lines[2].as_str()), (3, "… 32 of 100 bytes; --bytes shows more"));
        assert_eq!(hexdump(b"", 32), Vec::<String>::new());
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "letter"), "1 letter");
        assert_eq!(counted(2_000, "letter"), "2,000 letters");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb", "c"], ["aaa", "b", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), ["a    bb  c", "aaa  b"]);
    }

    proptest! {
        #[test]
        fn any_bytes_print_on_one_line(bytes in proptest::collection::vec(any::<u8>(), 0..200), max in 0usize..50) {
            prop_assert!(!printable(&bytes, max).chars().any(char::is_control));
        }
    }
}
