//! JSON in which no object says a key twice: of two values one program takes the first and another the last, so that
//! what was looked at on the way here is not what is done.
//!
//! Pure. Never here: what the values mean.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Any value in which each object has each of its keys once.
#[derive(Debug)]
pub(super) struct Once(pub(super) Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values).map(Self)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number is not finite"))?;
        Ok(number.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(value)) = all.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = all.next_key::<String>()? {
            if object.contains_key(&key) {
                let key: String = key.chars().take(80).collect();
                return Err(A::Error::custom(format_args!("{key:?} is there twice")));
            }
            let Once(value) = all.next_value()?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_else_is_read_as_ever() {
        for text in [
            "null",
            "true",
            "-9223372036854775808",
            "18446744073709551615",
            "1e3",
            "0.1",
            r#""a\u0000\ud83d\ude00""#,
            r#"[1, [], {"": {}}, "x"]"#,
            r#"{"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}"#,
        ] {
            let Once(read) = serde_json::from_str(text).expect(text);
            assert_eq!(read, serde_json::from_str::<Value>(text).expect(text));
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_however_it_is_written() {
        for text in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "\u0061": 2}"#,
            r#"[{"b": {"a": [], "c": 0, "a": {}}}]"#,
        ] {
            let error = serde_json::from_str::<Once>(text).expect_err(text).to_string();
            assert!(error.contains("\"a\" is there twice"), "{error}");
        }
        for text in ["1e999", "[", "{1: 2}", "\"\\ud800\"", "nul"] {
            assert!(serde_json::from_str::<Once>(text).is_err(), "{text}");
        }
        let deep = ["[".repeat(200), "{\"a\":".repeat(200)];
        for text in deep {
            let error = serde_json::from_str::<Once>(&text).expect_err("deep").to_string();
            assert!(error.contains("recursion limit"), "{error}");
        }
    }
}
