//! Canonical JSON: the one byte sequence in which a config or a policy is hashed and signed.
//!
//! Keys in ascending order, no white space, integers only. A subset of RFC 8785 (JSON
//! Canonicalization Scheme): our documents hold no floating-point numbers and no keys outside ASCII.

use serde::Serialize;

/// The canonical bytes of `value`.
///
/// # Panics
///
/// If `value` does not serialise as JSON, or holds a floating-point number: a mistake in our own
/// types, never in somebody's document.
pub fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    // serde_json's map is ordered by key unless its `preserve_order` feature is on; a test below
    // fails should a dependency ever switch it on for us.
    let value = serde_json::to_value(value).expect("our documents serialise as JSON");
    assert!(no_floats(&value), "canonical documents hold integers only");
    serde_json::to_vec(&value).expect("a JSON value serialises")
}

fn no_floats(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => !number.is_f64(),
        serde_json::Value::Array(items) => items.iter().all(no_floats),
        serde_json::Value::Object(fields) => fields.values().all(no_floats),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_sorted_and_nothing_is_between() {
        let value = serde_json::json!({ "b": [1, "x"], "a": { "d": null, "c": true } });
        assert_eq!(super::to_vec(&value), br#"{"a":{"c":true,"d":null},"b":[1,"x"]}"#);
    }
}
