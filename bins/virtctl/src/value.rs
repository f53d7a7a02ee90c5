//! A value to show: as people read it, as a cell of CSV, and as JSON and YAML have it.
//!
//! People read sizes, times and durations in units; programs get the rest as numbers and RFC 3339.
//! Never here: what a value means, or where it is printed.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use ves_types::{Bytes, Limit};

/// Something to show. Maps keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Not known or not there.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A count.
    Num(u64),
    /// A number that may be negative.
    Int(i64),
    /// A size in bytes.
    Bytes(u64),
    /// A moment, in milliseconds since 1970.
    Time(i64),
    /// A duration in milliseconds; programs read it in seconds.
    Millis(u64),
    /// A number in tenths.
    Tenths(u64),
    /// Words.
    Text(String),
    /// Several.
    List(Vec<Value>),
    /// Named ones.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// Words; none of them is [`Value::Null`].
    pub(crate) fn text(text: impl AsRef<str>) -> Self {
        match text.as_ref() {
            "" => Self::Null,
            text => Self::Text(text.to_owned()),
        }
    }
    /// A list of words.
    pub(crate) fn texts<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::List(texts.into_iter().map(|t| Self::Text(t.as_ref().to_owned())).collect())
    }
    /// A map with literal names.
    pub(crate) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    }
    /// A number or the word `unlimited`.
    pub(crate) fn limit(limit: Limit) -> Self {
        limit.max().map_or_else(|| Self::text("unlimited"), Self::Num)
    }
    /// A duration.
    pub(crate) fn millis(duration: std::time::Duration) -> Self {
        Self::Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
    /// A number where there is one.
    pub(crate) fn maybe(number: Option<impl Into<u64>>) -> Self {
        number.map_or(Self::Null, |n| Self::Num(n.into()))
    }

    /// A moment where there is one, to the second.
    pub(crate) fn whole_seconds(time: Option<&prost_types::Timestamp>) -> Self {
        time.map_or(Self::Null, |time| Self::Time(time.seconds.saturating_mul(1000)))
    }

    /// A moment where there is one, in milliseconds since 1970.
    pub(crate) fn maybe_time(unix_ms: Option<i64>) -> Self {
        unix_ms.map_or(Self::Null, Self::Time)
    }

    /// As people read it.
    pub(crate) fn human(&self) -> String {
        match self {
            Self::Null => "-".into(),
            Self::Bytes(n) => Bytes(*n).to_string(),
            Self::Time(ms) => timestamp(*ms, "%Y-%m-%d %H:%M:%S"),
            Self::Millis(ms) => format_duration(std::time::Duration::from_millis(*ms)),
            Self::List(items) if items.is_empty() => "-".into(),
            Self::List(items) => join(items, Self::human, ","),
            Self::Map(entries) if entries.is_empty() => "-".into(),
            Self::Map(entries) => {
                let pairs: Vec<_> =
                    entries.iter().map(|(k, v)| format!("{k}={}", v.human())).collect();
                pairs.join(",")
            }
            Self::Bool(_) | Self::Num(_) | Self::Int(_) | Self::Tenths(_) | Self::Text(_) => {
                self.plain()
            }
        }
    }

    /// As a cell of CSV.
    pub(crate) fn plain(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(true) => "yes".into(),
            Self::Bool(false) => "no".into(),
            Self::Num(n) | Self::Bytes(n) => n.to_string(),
            Self::Millis(n) => format!("{}.{:03}", n / 1000, n % 1000),
            Self::Int(n) => n.to_string(),
            Self::Tenths(n) => format!("{}.{}", n / 10, n % 10),
            Self::Time(ms) => rfc3339(*ms),
            Self::Text(text) => text.clone(),
            Self::List(items) => join(items, Self::plain, " "),
            Self::Map(entries) => {
                let pairs: Vec<_> =
                    entries.iter().map(|(k, v)| format!("{k}={}", v.plain())).collect();
                pairs.join(" ")
            }
        }
    }

    /// What a list is sorted by; words have none.
    pub(crate) fn number(&self) -> Option<i128> {
        match self {
            Self::Num(n) | Self::Bytes(n) | Self::Millis(n) | Self::Tenths(n) => {
                Some(i128::from(*n))
            }
            Self::Int(n) | Self::Time(n) => Some(i128::from(*n)),
            Self::Null => Some(-1),
            Self::Bool(_) | Self::Text(_) | Self::List(_) | Self::Map(_) => None,
        }
    }
}

fn join(items: &[Value], show: fn(&Value) -> String, by: &str) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(by)
}

fn timestamp(ms: i64, pattern: &str) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| "-".into(),
        |t| t.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime(pattern).to_string(),
    )
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| t.to_string())
}

/// A duration as people read it.
pub(crate) fn format_duration(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_none(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Num(n) | Self::Bytes(n) => s.serialize_u64(*n),
            Self::Int(n) => s.serialize_i64(*n),
            // As written they have one and three decimals, which a double keeps.
            Self::Tenths(_) | Self::Millis(_) => {
                s.serialize_f64(self.plain().parse().unwrap_or_default())
            }
            Self::Time(ms) => s.serialize_str(&rfc3339(*ms)),
            Self::Text(text) => s.serialize_str(text),
            Self::List(items) => s.collect_seq(items),
            Self::Map(entries) => {
                let mut map = s.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_order_in_json() {
        let value = Value::map([("z", Value::Num(1)), ("a", Value::Null), ("t", Value::Time(0))]);
        assert_eq!(
            serde_json::to_string(&value).expect("it is a plain value"),
            r#"{"z":1,"a":null,"t":"1970-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn durations() {
        let shown = |ms| format_duration(std::time::Duration::from_millis(ms));
        assert_eq!(shown(7), "7 ms");
        assert_eq!(shown(1_250), "1.2 s");
        assert_eq!(shown(61_000), "1 min 1 s");
        assert_eq!(shown(7_260_000), "2 h 1 min");
    }

    #[test]
    fn cells() {
        assert_eq!(Value::List(vec![]).human(), "-");
        assert_eq!(Value::texts(["a", "b"]).human(), "a,b");
        assert_eq!(Value::texts(["a", "b"]).plain(), "a b");
        assert_eq!(Value::Bytes(1 << 30).human(), "1 GiB");
        assert_eq!(Value::Bytes(1 << 30).plain(), "1073741824");
        assert_eq!(Value::limit(Limit::Unlimited).human(), "unlimited");
    }
}
