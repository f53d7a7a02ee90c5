//! What of a container is no matter of any service: whose it is, and what its owner wrote on it. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ves_types::ParseError;

use crate::wrong::{Wrong, bad};

/// The most labels of a container.
const MOST_LABELS: usize = 64;
/// The longest key of a label or an annotation, in bytes.
const LONGEST_KEY: usize = 63;
/// The longest value of a label, in bytes.
const LONGEST_VALUE: usize = 255;
/// The most bytes of all annotations, keys and values.
const MOST_ANNOTATIONS: usize = 64 << 10;

/// What of a container is no matter of any service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// The tenant it belongs to; it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// For filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The caller's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// It is not deleted while this is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete_protection: bool,
}

/// A field of it that can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaField {
    /// The project, which stays.
    Project,
    /// All labels.
    Labels,
    /// All annotations.
    Annotations,
    /// The protection against deletion.
    DeleteProtection,
}

impl Meta {
    /// Takes `field` of `from` over.
    pub fn copy(&mut self, field: MetaField, from: &Self) {
        match field {
            MetaField::Project => self.project.clone_from(&from.project),
            MetaField::Labels => self.labels.clone_from(&from.labels),
            MetaField::Annotations => self.annotations.clone_from(&from.annotations),
            MetaField::DeleteProtection => self.delete_protection = from.delete_protection,
        }
    }

    /// `projects/NAME`, where it belongs to one.
    pub fn project_name(&self) -> Option<String> {
        self.project.as_ref().map(|project| format!("projects/{project}"))
    }
}

/// Reads the name of a project without `projects/`.
pub fn parse_project(name: &str) -> Result<String, ParseError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let inner = !name.starts_with('-') && !name.ends_with('-');
    if (1..=63).contains(&name.len()) && inner && name.bytes().all(allowed) {
        return Ok(name.to_owned());
    }
    let why = "it must have 1 to 63 small letters, digits and inner hyphens";
    Err(ParseError::new("project", name, why))
}

/// Notes what is wrong with labels.
pub fn check_labels(field: &str, labels: &BTreeMap<String, String>, wrong: &mut Wrong) {
    if labels.len() > MOST_LABELS {
        let message = format!("there are {} labels; {MOST_LABELS} are the most", labels.len());
        wrong.push(bad(field, message));
        return;
    }
    for (key, value) in labels {
        check_key(field, key, wrong);
        if value.len() > LONGEST_VALUE || value.chars().any(char::is_control) {
            let why = "a label's value has at most 255 bytes and no control characters";
            wrong.at::<()>(field, Err(ParseError::new("value of a label", value, why)));
        }
    }
}

/// Notes what is wrong with annotations.
pub fn check_annotations(field: &str, annotations: &BTreeMap<String, String>, wrong: &mut Wrong) {
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MOST_ANNOTATIONS {
        let message = format!("annotations have {bytes} bytes; {MOST_ANNOTATIONS} are the most");
        wrong.push(bad(field, message));
        return;
    }
    for key in annotations.keys() {
        check_key(field, key, wrong);
    }
}

/// What a key of a label or an annotation is.
pub const KEY: &str = "a key has 1 to 63 letters, digits, '-', '_', '.' and '/'";

/// Whether it is a key of a label or an annotation.
pub fn is_key(key: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(allowed)
}

fn check_key(field: &str, key: &str, wrong: &mut Wrong) {
    if !is_key(key) {
        wrong.at::<()>(field, Err(ParseError::new("key", key, KEY)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn labels_and_annotations_have_bounds() {
        let told = |check: fn(&str, &BTreeMap<String, String>, &mut Wrong), all| {
            let mut wrong = Wrong::default();
            check("labels", &all, &mut wrong);
            wrong.fault().map_or(0, |fault| fault.violations.len().max(1))
        };
        let long = "x".repeat(64);
        assert_eq!(told(check_labels, labels(&[("billing/plan", "a b"), ("x", "")])), 0);
        assert_eq!(told(check_labels, labels(&[("a b", "x"), (&long, "x"), ("", "\n")])), 4);
        assert_eq!(told(check_labels, labels(&[("x", &"y".repeat(256))])), 1);
        let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(told(check_labels, many), 1);
        assert_eq!(told(check_annotations, labels(&[("x", &"\n".repeat(65_535))])), 0);
        assert_eq!(told(check_annotations, labels(&[("x", &"y".repeat(65_536))])), 1);
    }

    #[test]
    fn projects_have_plain_names() {
        assert_eq!(parse_project("acme-7"), Ok("acme-7".to_owned()));
        for bad in ["", "-a", "a-", "A", "a b", "projects/x", &"x".repeat(64)] {
            assert!(parse_project(bad).is_err(), "{bad:?}");
        }
    }
}
