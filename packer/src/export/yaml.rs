//! YAML, written. One document per value, in block style, keys in ascending order.
//!
//! A string stands without quotes only where no reader of YAML 1.1 or 1.2 could take it for something else;
//! all others are double-quoted, with everything escaped that is not printable.
//!
//! Source: YAML 1.2.2, sections 5.7 "Escaped Characters", 7.3 "Flow Scalar Styles" and 8.2 "Block Collection Styles";
//! YAML 1.1's types bool, null, int, float, merge and value.

use std::fmt::Write as _;

use serde_json::Value;

/// Words that YAML 1.1 or 1.2 reads as no string.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// `value`, a mapping, as a YAML document.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0, Position::OwnLine);
    text
}

/// Where a value begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// At the beginning of a line, nothing indented yet.
    OwnLine,
    /// After `key:`.
    AfterKey,
    /// After `-` and a space.
    AfterDash,
}

/// Writes `value`, whose lines are indented by `indent`, and ends its last line. The depth is that of our own documents.
fn block(text: &mut String, value: &Value, indent: usize, position: Position) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            if position == Position::AfterKey {
                text.push('\n');
            }
            for (n, (key, value)) in fields.iter().enumerate() {
                if n > 0 || position != Position::AfterDash {
                    text.extend(std::iter::repeat_n(' ', indent));
                }
                string(text, key);
                text.push(':');
                block(text, value, indent + 2, Position::AfterKey);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            if position == Position::AfterKey {
                text.push('\n');
            }
            // Under a key, items stand as far left as the key itself.
            let indent = if position == Position::AfterKey { indent - 2 } else { indent };
            for (n, item) in items.iter().enumerate() {
                if n > 0 || position != Position::AfterDash {
                    text.extend(std::iter::repeat_n(' ', indent));
                }
                text.push_str("- ");
                block(text, item, indent + 2, Position::AfterDash);
            }
        }
        scalar => {
            if position == Position::AfterKey {
                text.push(' ');
            }
            match scalar {
                Value::String(content) => string(text, content),
                // Numbers, booleans, null and what is empty are spelt in YAML as in JSON.
                other => write!(text, "{other}").expect("a string takes everything"),
            }
            text.push('\n');
        }
    }
}

fn string(text: &mut String, content: &str) {
    if is_plain(content) {
        text.push_str(content);
        return;
    }
    text.push('"');
    for c in content.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            ' '..='~' => text.push(c),
            _ if (c as u32) < 0x1_0000 => {
                write!(text, "\\u{:04x}", c as u32).expect("a string takes everything")
            }
            _ => write!(text, "\\U{:08x}", c as u32).expect("a string takes everything"),
        }
    }
    text.push('"');
}

/// True for what starts with a letter, has only letters, digits and a few signs, and is no word with a meaning.
fn is_plain(content: &str) -> bool {
    content.starts_with(|c: char| c.is_ascii_alphabetic())
        && content.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_./".contains(&c))
        && !WORDS.contains(&content.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strings_are_quoted_where_a_reader_could_take_them_for_something_else() {
        for (content, want) in [
            ("web", "web"),
            ("v1.4-rc/x_y", "v1.4-rc/x_y"),
            ("no", r#""no""#),
            ("Yes", r#""Yes""#),
            ("ON", r#""ON""#),
            ("null", r#""null""#),
            ("~", r#""~""#),
            ("", r#""""#),
            ("0755", r#""0755""#),
            ("1e3", r#""1e3""#),
            (".inf", r#"".inf""#),
            ("12:30:45", r#""12:30:45""#),
            ("a: b", r#""a: b""#),
            ("a #b", r##""a #b""##),
            ("- a", r#""- a""#),
            ("10.0.0.0/8", r#""10.0.0.0/8""#),
            ("fe80::/10", r#""fe80::/10""#),
            ("*", r#""*""#),
            ("a\"\\\n\u{1b}\u{85}\u{2028}\u{1f5a7}", r#""a\"\\\n\u001b\u0085\u2028\U0001f5a7""#),
        ] {
            let mut text = String::new();
            string(&mut text, content);
            assert_eq!(text, want);
        }
    }

    #[test]
    fn mappings_and_lists_nest() {
        let value = json!({
            "spec": { "list": [{ "b": 1, "a": { "deep": true } }, [1, [2]], "x", []], "empty": {}, "none": null },
            "kind": "Test", "on": "off",
        });
        let want = "\
kind: Test
\"on\": \"off\"
spec:
  empty: {}
  list:
  - a:
      deep: true
    b: 1
  - - 1
    - - 2
  - x
  - []
  none: null
";
        assert_eq!(document(&value), want);
    }
}
