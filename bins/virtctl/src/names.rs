//! Names of resources: what people type and read becomes `containers/600`, `operations/UUID` and back.
//!
//! Pure. Never here: whether there is such a thing.

use ves_types::SnapshotId;

use crate::ct::Ct;

/// `containers/CT`, where CT may be an alias.
pub(crate) fn container(ct: &Ct) -> String {
    format!("containers/{ct}")
}

/// `containers/CT/snapshots/UUID`.
pub(crate) fn snapshot(ct: &Ct, id: SnapshotId) -> String {
    format!("containers/{ct}/snapshots/{id}")
}

/// `operations/UUID`, of either.
pub(crate) fn operation(id: &str) -> String {
    format!("operations/{}", bare(id))
}

/// `templates/NAME`.
pub(crate) fn template(name: &ves_types::TemplateName) -> String {
    ves_proto::public::template_name(name)
}

/// `projects/NAME`, of either.
pub(crate) fn project(name: &str) -> String {
    format!("projects/{}", name.strip_prefix("projects/").unwrap_or(name))
}

/// The last word of a name, which people know it by.
pub(crate) fn bare(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// The id in `containers/600`; none where it is the name of something else.
pub(crate) fn ct_id(name: &str) -> Option<u32> {
    name.strip_prefix("containers/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_taken_by_its_name_too() {
        assert_eq!(operation("operations/x"), operation("x"));
        assert_eq!(operation("a/b"), "operations/b");
    }

    #[test]
    fn names_are_shown_by_their_last_word() {
        let id: SnapshotId = "019ab4a0-0000-7000-8000-000000000001".parse().expect("a UUID");
        let ct: Ct = "web".parse().expect("a name");
        assert_eq!(container(&ct), "containers/web");
        assert_eq!(bare(&snapshot(&ct, id)), id.to_string());
        assert_eq!((bare(&operation("x")), bare("x"), bare("")), ("x", "x", ""));
        assert_eq!((project("shop"), project("projects/shop")), (project("shop"), project("shop")));
        assert_eq!(ct_id("containers/600"), Some(600));
        for other in ["containers/web", "templates/600", "600", "containers/6/snapshots/x", ""] {
            assert_eq!(ct_id(other), None, "{other}");
        }
    }
}
