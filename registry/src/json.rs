//! JSON as a registry may believe it: bounded in depth, and with one meaning.
//!
//! With a key given twice, one reader takes the first and another the second, so a signature could be
//! checked over one and a layer fetched by the other. Such documents are refused.
//!
//! Source: RFC 8259, section 4 (object names "SHOULD be unique"; what happens otherwise is open).

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Deepest nesting that is read. Manifests need five.
pub(crate) const MAX_DEPTH: usize = 64;

/// Why bytes are no document that we take.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("the document is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the key `{key}` is there twice")]
    DuplicateKey { key: String },
    #[error("the document is not JSON")]
    Malformed(#[source] serde_json::Error),
}

/// Reads one JSON document and nothing behind it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let problem = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Strict { depth: 0, problem: &problem };
    let parsed = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|error| problem.take().unwrap_or(JsonError::Malformed(error)))
}

/// Reads one value at some depth. What is wrong with it beyond the syntax is left in `problem`.
#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    problem: &'a Cell<Option<JsonError>>,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.fail(JsonError::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn fail<E: serde::de::Error>(self, problem: JsonError) -> E {
        self.problem.set(Some(problem));
        E::custom("see the problem")
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if object.contains_key(&key) {
                let key = key.escape_debug().to_string();
                return Err(self.fail(JsonError::DuplicateKey { key }));
            }
            let value = fields.next_value_seed(inner)?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(text: &str, want: &str) {
        assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), want);
    }

    #[test]
    fn an_honest_document_reads_as_it_is() {
        let text = r#"{"a":[1,-2,3.5,"x",null,true],"b":{"a":{}}}"#;
        let want: Value = serde_json::from_str(text).unwrap();
        assert_eq!(parse(text.as_bytes()).unwrap(), want);
    }

    #[test]
    fn a_key_has_one_value() {
        check_error(r#"{"a":1,"a":1}"#, "the key `a` is there twice");
        check_error(r#"{"x":[{"a":1,"b":2,"\u0061":3}]}"#, "the key `a` is there twice");
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        check_error(&nested(MAX_DEPTH + 1), "the document is nested deeper than 64 levels");
        check_error(&"[".repeat(1 << 20), "the document is nested deeper than 64 levels");
        check_error(&"{\"a\":".repeat(1 << 20), "the document is nested deeper than 64 levels");
    }

    #[test]
    fn a_document_is_one_value_of_utf_8() {
        for text in ["", " ", "{", "{} {}", "{}x", "nul", "\"\u{0}\""] {
            check_error(text, "the document is not JSON");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_means_the_same_to_serde_json(text in r#"[\[\]{}:," a-c0-9.eE+\\u-]{0,40}"#) {
            if let Ok(value) = parse(text.as_bytes()) {
                proptest::prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
