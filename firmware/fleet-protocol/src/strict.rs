//! The only way bytes from a peer become JSON: bounded in size, depth, keys and strings, with no key twice.
//!
//! The limits are those of the fleet contract; a message over one of them is malformed, whatever it says.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Largest message from a box, bytes.
pub const FROM_BOX_MAX: usize = 32 * 1024;
/// Largest message to a box, bytes.
pub const TO_BOX_MAX: usize = 64 * 1024;
/// Deepest nesting; the outermost object is level 1.
pub const DEPTH_MAX: usize = 8;
/// Most object keys in one message, all levels together.
pub const KEYS_MAX: usize = 512;
/// Longest string in bytes.
pub const STRING_MAX: usize = 4096;

/// Why a message was refused before anyone looked at its meaning.
#[derive(Debug, thiserror::Error)]
pub enum StrictError {
    /// Over the size limit of its direction.
    #[error("message of {size} bytes is over the limit of {limit}")]
    Size {
        /// Bytes received.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON, or over one of the limits of depth, keys or strings, or with a key twice.
    #[error("malformed json: {0}")]
    Json(#[from] serde_json::Error),
}

/// Read one JSON document of at most `limit` bytes.
///
/// # Errors
/// [`StrictError::Size`] before parsing, [`StrictError::Json`] for everything else.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Value, StrictError> {
    if bytes.len() > limit {
        return Err(StrictError::Size { size: bytes.len(), limit });
    }
    let keys = Cell::new(0);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Level { depth: 1, keys: &keys }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Level<'a> {
    depth: usize,
    keys: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl Level<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth > DEPTH_MAX {
            return Err(E::custom("nested too deep"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn string<E: serde::de::Error>(text: String) -> Result<String, E> {
        if text.len() > STRING_MAX { Err(E::custom("string too long")) } else { Ok(text) }
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Self::string(text.to_owned()).map(Value::String)
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        Self::string(text).map(Value::String)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        use serde::de::Error as _;
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let key = Self::string(key)?;
            self.keys.set(self.keys.get() + 1);
            if self.keys.get() > KEYS_MAX {
                return Err(A::Error::custom("too many keys"));
            }
            let value = entries.next_value_seed(inner)?;
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        parse(text.as_bytes(), FROM_BOX_MAX).unwrap_err().to_string()
    }

    #[test]
    fn a_key_twice_is_refused_at_every_level() {
        assert!(refused(r#"{"a":1,"a":2}"#).contains("duplicate key"));
        assert!(refused(r#"{"x":[{"a":1,"a":1}]}"#).contains("duplicate key"));
    }

    #[test]
    fn eight_levels_pass_and_nine_do_not() {
        let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nest(DEPTH_MAX).as_bytes(), FROM_BOX_MAX).is_ok());
        assert!(refused(&nest(DEPTH_MAX + 1)).contains("nested too deep"));
        assert!(parse("[".repeat(30_000).as_bytes(), FROM_BOX_MAX).is_err());
    }

    #[test]
    fn keys_and_strings_are_counted() {
        let keys = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(","));
        assert!(parse(keys(KEYS_MAX).as_bytes(), FROM_BOX_MAX).is_ok());
        assert!(refused(&keys(KEYS_MAX + 1)).contains("too many keys"));
        let text = |n: usize| format!("\"{}\"", "x".repeat(n));
        assert!(parse(text(STRING_MAX).as_bytes(), FROM_BOX_MAX).is_ok());
        assert!(refused(&text(STRING_MAX + 1)).contains("string too long"));
        let key = format!("{{\"{}\":1}}", "x".repeat(STRING_MAX + 1));
        assert!(refused(&key).contains("string too long"));
    }

    #[test]
    fn size_utf8_trailing_bytes_and_infinite_numbers_are_refused() {
        assert!(matches!(parse(&[b' '; 11], 10), Err(StrictError::Size { size: 11, limit: 10 })));
        assert!(parse(b"\"\xff\"", 10).is_err());
        assert!(parse(b"{} {}", 10).is_err());
        assert!(parse(b"1e999", 10).is_err());
        assert!(parse(b"NaN", 10).is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::btree_map("[a-z]{1,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_inside_the_limits_is_read_unchanged(value in any_json()) {
            let bytes = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(parse(&bytes, FROM_BOX_MAX).unwrap(), value);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, FROM_BOX_MAX);
        }
    }
}
