//! Labels and annotations as they are typed: `KEY=VALUE`, and `KEY-` for one that is to go.
//!
//! Never here: which keys and values there may be, which the coordinator says.

use std::collections::BTreeMap;

use ves_types::ParseError;

/// A label or an annotation that is set or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TagChange {
    /// Its key.
    pub(crate) key: String,
    /// Its value; none: it is taken away.
    pub(crate) value: Option<String>,
}

impl std::str::FromStr for TagChange {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let (key, value) = match s.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (s.strip_suffix('-').unwrap_or_default(), None),
        };
        if key.is_empty() {
            return Err(ParseError::new(
                "label",
                s,
                "it must be KEY=VALUE, or KEY- to take it away",
            ));
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

/// What there is after changes, in their order.
pub(crate) fn changed(
    mut tags: BTreeMap<String, String>,
    changes: &[TagChange],
) -> BTreeMap<String, String> {
    for TagChange { key, value } in changes {
        match value {
            Some(value) => drop(tags.insert(key.clone(), value.clone())),
            None => drop(tags.remove(key)),
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_set_and_taken_away_in_order() {
        let change = |s: &str| s.parse::<TagChange>();
        for bad in ["", "=", "=x", "-", "key"] {
            assert!(change(bad).is_err(), "{bad:?}");
        }
        let changes: Vec<_> =
            ["a=1", "b=x=y-", "c-", "d-e=", "a-", "b-", "b=2"].map(|s| change(s).expect(s)).into();
        let before = [("c", "old"), ("z", "stays")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let after = changed(before.into(), &changes);
        let after: Vec<_> = after.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(after, [("b", "2"), ("d-e", ""), ("z", "stays")]);
    }
}
