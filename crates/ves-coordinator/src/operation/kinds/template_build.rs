//! template build: the one operation that is about no container: a stream of storage's instead of
//! stages. Pure.

use serde::{Deserialize, Serialize};
use ves_proto::{Fault, storage};
use ves_types::{ParseError, TemplateName};

use super::{Kind, Stage, Undo};
use crate::container::observed::Observed;
use crate::container::record::Record;

/// Builds a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateBuild {
    /// Its name.
    pub name: TemplateName,
    /// The Debian suite.
    pub suite: String,
    /// The init system, by its number in the protocol.
    pub init: i32,
    /// Further packages.
    pub packages: Vec<String>,
}

/// template build.
///
/// # Errors
/// `BAD_VALUE` or `MISSING_FIELD` on "suite".
pub fn parse_suite(suite: &str) -> Result<String, Fault> {
    if suite.is_empty() {
        return Err(Fault::missing("suite"));
    }
    if !suite.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        let why = "it may hold letters, digits and '-' only";
        return Err(Fault::bad_value("suite", &ParseError::new("suite", suite, why)));
    }
    Ok(suite.to_owned())
}

impl TemplateBuild {
    /// What storage is asked for.
    pub fn request(&self) -> storage::BuildTemplateRequest {
        let Self { name, suite, init, packages } = self.clone();
        storage::BuildTemplateRequest { name: name.as_str().to_owned(), suite, init, packages }
    }
}

impl Kind for TemplateBuild {
    fn name(&self) -> &'static str {
        "template build"
    }

    fn stages(&self) -> &'static [Stage] {
        &[]
    }

    fn undo(&self, _: &mut Record, _: &Observed) -> Undo {
        Undo::RollForward
    }
}
