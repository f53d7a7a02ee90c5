//! What is wrong with a request, collected so that all of it is told at once. Pure.

use ves_proto::{Fault, Reason};
use ves_types::ParseError;

/// The most mistakes that are told at once; what a status says has to fit into headers.
const MISTAKES: usize = 16;

/// What is wrong with a request.
#[derive(Debug, Default)]
pub struct Wrong {
    faults: Vec<Fault>,
    more: usize,
}

impl Wrong {
    /// Whether nothing is.
    pub const fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// This is, too.
    pub fn push(&mut self, fault: Fault) {
        if self.faults.len() < MISTAKES {
            self.faults.push(fault);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// What was read, where it could be.
    pub fn take<T>(&mut self, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.push(fault)).ok()
    }

    /// The same of the field with this path.
    pub fn at<T>(&mut self, field: &str, read: Result<T, ParseError>) -> Option<T> {
        self.take(read.map_err(|error| Fault::bad_value(field, &error)))
    }

    /// The same of fields that were named by their path inside of `outer`.
    pub fn within<T>(&mut self, outer: &str, read: Result<T, Fault>) -> Option<T> {
        self.take(read.map_err(|fault| match fault.facts.get("field").cloned() {
            Some(field) => fault.fact("field", format!("{outer}.{field}")),
            None => fault,
        }))
    }

    /// All that is wrong, where something is.
    pub fn fault(self) -> Option<Fault> {
        let Self { faults, more } = self;
        let mut all = Fault::all(faults)?;
        if more > 0 {
            all.message.push_str(&format!("; and {more} more"));
        }
        Some(all)
    }

    /// Fails with all that is wrong, where something is.
    pub fn end(self) -> Result<(), Fault> {
        self.fault().map_or(Ok(()), Err)
    }
}

/// A value that cannot be, in the field with this path.
pub fn bad(field: &str, message: impl Into<String>) -> Fault {
    Fault::new(Reason::BadValue, message).fact("field", field)
}

/// The value of an enum by its number; another than this version knows is refused.
///
/// # Errors
/// `BAD_VALUE` on `field`.
pub fn known<T: TryFrom<i32>>(field: &str, number: i32) -> Result<T, Fault> {
    T::try_from(number)
        .map_err(|_| bad(field, format!("{field}: {number} is none that this version knows")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_told_up_to_a_bound() {
        let mut wrong = Wrong::default();
        assert_eq!(wrong.take(Ok::<_, Fault>(7)), Some(7));
        wrong.within::<()>("container", Err(bad("spec.hostname", "is none")));
        for n in 0..100 {
            wrong.push(bad(&format!("add[{n}]"), "is no address"));
        }
        let all = wrong.end().expect_err("much is wrong");
        assert_eq!(all.facts["field"], "container.spec.hostname");
        assert_eq!(all.violations.len(), MISTAKES);
        assert!(all.message.ends_with("; and 85 more"), "{all}");
    }
}
