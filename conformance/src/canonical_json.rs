//! Canonical JSON: the one encoding that a config or a policy may have.
//!
//! A subset of RFC 8785: integers only, and keys in ASCII, so that the order of bytes is the order of
//! UTF-16 units. The check encodes what was read anew and compares, which also finds a key that is there
//! twice.

use serde_json::Value;

/// Says why `bytes`, which read as `value`, are not its canonical encoding.
pub(crate) fn check(bytes: &[u8], value: &Value) -> Result<(), String> {
    let mut wanted = Vec::with_capacity(bytes.len());
    encode(value, &mut wanted)?;
    match wanted.iter().zip(bytes).position(|(wanted, found)| wanted != found) {
        Some(at) => Err(format!("differs from the canonical encoding at byte {at}")),
        None if wanted.len() != bytes.len() => {
            Err(format!("has {} bytes; the canonical encoding has {}", bytes.len(), wanted.len()))
        }
        None => Ok(()),
    }
}

/// Appends the canonical encoding. The parser bounds the depth of `value` (128), and so the recursion.
fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Number(number) if number.is_f64() => {
            return Err(format!("holds the number {number}; only integers of 64 bits may be"));
        }
        Value::Array(items) => {
            for (position, item) in items.iter().enumerate() {
                out.push(if position == 0 { b'[' } else { b',' });
                encode(item, out)?;
            }
            out.extend(if items.is_empty() { &b"[]"[..] } else { b"]" });
        }
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            for (position, key) in keys.iter().enumerate() {
                if !key.is_ascii() {
                    return Err(format!("has the key `{key}`; keys are ASCII"));
                }
                out.push(if position == 0 { b'{' } else { b',' });
                out.extend(Value::from(key.as_str()).to_string().bytes());
                out.push(b':');
                encode(&fields[key.as_str()], out)?;
            }
            out.extend(if fields.is_empty() { &b"{}"[..] } else { b"}" });
        }
        scalar => out.extend(scalar.to_string().bytes()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    /// Whether `text` is canonical.
    #[track_caller]
    fn check(text: &str, want: bool) {
        let value = serde_json::from_str(text).unwrap();
        let result = super::check(text.as_bytes(), &value);
        assert_eq!(result.is_ok(), want, "{text}: {result:?}");
    }

    #[test]
    fn a_document_has_one_canonical_encoding() {
        check(r#"{"a":[],"b":{},"c":[1,-2,null,true,"x\n\u001f\"é"]}"#, true);
        check(r#"{"b":1,"a":2}"#, false); // order
        check(r#"{"a":1, "b":2}"#, false); // white space
        check("{}\n", false);
        check(r#"{"a":1,"a":1}"#, false); // twice
        check(r#"{"a":1.0}"#, false);
        check(r#"{"a":-0}"#, false);
        check(r#"{"a":1e3}"#, false);
        check(r#"{"a":18446744073709551616}"#, false);
        check(r#"{"a":"\u00e9"}"#, false); // escaped without need
        check(r#"{"a":"\/"}"#, false);
        check(r#"{"é":1}"#, false);
    }
}
