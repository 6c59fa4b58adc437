//! How messages show text from a file: escaped, in quotes, and cut off where it is long.

const MOST_SHOWN: usize = 64;

/// Bytes of which only ASCII is shown as it is.
pub(super) fn quoted(text: &[u8]) -> String {
    match text.split_at_checked(MOST_SHOWN) {
        Some((start, [_, ..])) => format!("`{}...`", start.escape_ascii()),
        _ => format!("`{}`", text.escape_ascii()),
    }
}

/// Text that was decoded from an encoding other than ASCII.
pub(super) fn quoted_text(text: &str) -> String {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("`{}...`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_off_and_the_rest_is_escaped() {
        let long = "ab\n\u{fc}".repeat(16);
        assert_eq!(quoted_text(&long), format!("`{}`", "ab\\n\u{fc}".repeat(16)));
        assert_eq!(quoted_text(&format!("{long}z")), format!("`{}...`", "ab\\n\u{fc}".repeat(16)));
        assert_eq!(quoted(&[7; 64]), format!("`{}`", r"\x07".repeat(64)));
        assert_eq!(quoted(&[7; 65]), format!("`{}...`", r"\x07".repeat(64)));
    }
}
