//! What to type after a failure, from its reason and facts.
//!
//! Services and the coordinator say what is wrong; they do not know by which program they were asked. Never
//! here: what went wrong.

use ves_proto::{Fault, Reason};

use crate::names::bare;

/// What may be typed next, where the reason tells.
pub(crate) fn of(fault: &Fault) -> Option<String> {
    // Facts may be names of resources, of which the last word is typed.
    let fact = |name: &str| fault.facts.get(name).map(|fact| bare(fact));
    Some(match (fault.reason, fact("ct")) {
        (Reason::ContainerUnknown, _) => "`virtctl list -a` shows those there are".to_owned(),
        (Reason::TemplateUnknown, _) => "`virtctl template list` shows those there are".to_owned(),
        (Reason::SnapshotUnknown, Some(ct)) => {
            format!("`virtctl snapshot-list {ct}` shows those there are")
        }
        (Reason::OperationUnknown, _) => {
            "`virtctl operation list` shows those there are".to_owned()
        }
        (Reason::ForeignContents, Some(ct)) => {
            format!("`virtctl destroy {ct}` clears what is left of it")
        }
        (Reason::VolumeDamaged, Some(ct)) if fact("mend").is_some() => {
            format!("`virtctl snapshot-list {ct}` shows what it can go back to")
        }
        (Reason::VolumeDamaged, Some(ct)) if fact("mounted").is_some() => {
            format!("`virtctl restart {ct}` checks and mends it")
        }
        (Reason::VolumeDamaged, Some(ct)) => format!(
            "`virtctl fsck {ct}` mends it, whatever is lost, after a snapshot if there is room for one"
        ),
        (Reason::Running, Some(ct)) if fact("lost").is_some() => {
            format!("`virtctl stop {ct} --fast` ends it")
        }
        (Reason::DeleteProtected, Some(ct)) => {
            format!("`virtctl set {ct} --delete-protection no --save` lifts that")
        }
        (Reason::NeedsRestart, _) => "add --setmode restart or --setmode ignore".to_owned(),
        (Reason::BadValue | Reason::NotRunning, _) if fact("field") == Some("until_stop") => {
            "add --save".to_owned()
        }
        (Reason::TooMany, Some(ct)) if fact("errno").is_some() => {
            format!("`virtctl set {ct} --numproc N` raises the limit")
        }
        (Reason::Busy, _) => {
            let id = fact("operation")?;
            format!("`virtctl operation show {id}` tells how far it is")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(reason: Reason, facts: &[(&str, &str)]) -> Option<String> {
        let fault = Fault::new(reason, "something failed");
        of(&facts.iter().fold(fault, |fault, (key, value)| fault.fact(key, value)))
    }

    #[test]
    fn the_reason_tells_what_to_type() {
        let ct = ("ct", "101");
        for (reason, facts, words) in [
            (Reason::ContainerUnknown, vec![ct], "virtctl list -a"),
            (Reason::ForeignContents, vec![ct], "virtctl destroy 101"),
            (Reason::SnapshotUnknown, vec![ct], "virtctl snapshot-list 101"),
            (Reason::NeedsRestart, vec![ct, ("field", "init")], "--setmode restart"),
            (Reason::NotRunning, vec![ct, ("field", "until_stop")], "--save"),
            (Reason::Running, vec![ct, ("lost", "monitor")], "virtctl stop 101 --fast"),
            (Reason::BadValue, vec![("field", "until_stop")], "--save"),
            (Reason::TooMany, vec![ct, ("errno", "11")], "--numproc"),
            (Reason::Busy, vec![ct, ("operation", "operations/x")], "virtctl operation show x"),
            (Reason::DeleteProtected, vec![ct], "virtctl set 101 --delete-protection no"),
            (Reason::VolumeDamaged, vec![ct], "virtctl fsck 101"),
            (Reason::VolumeDamaged, vec![ct, ("mounted", "true")], "virtctl restart 101"),
            (Reason::VolumeDamaged, vec![ct, ("mend", "all")], "virtctl snapshot-list 101"),
        ] {
            let hint = hint(reason, &facts).expect("one");
            assert!(hint.contains(words), "{hint}");
        }
        assert_eq!(hint(Reason::NotRunning, &[ct]), None);
        assert_eq!(hint(Reason::BadValue, &[("field", "name")]), None);
        assert_eq!(hint(Reason::Busy, &[ct]), None);
    }
}
