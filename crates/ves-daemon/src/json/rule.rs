//! The rules of `google.api.http`: which call an HTTP request is, and what its path says of the message.
//!
//! Pure. Owns path templates as far as our protocol files use them: words, `*`, `{field=words/*}`, and a verb
//! after a colon at the end. A template that says more is refused when a daemon starts. Never here: messages.

use percent_encoding::percent_decode_str;

use super::Field;

/// A part of a path between slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Exactly this.
    Word(String),
    /// Anything.
    Any,
}

/// The path of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    /// Fields of the message, each with the segments that are its value.
    fields: Vec<(String, std::ops::Range<usize>)>,
    verb: Option<String>,
}

impl Template {
    /// Reads a template.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refused = || format!("the path {text:?} is not one that is understood here");
        let mut rest = text.strip_prefix('/').ok_or_else(refused)?;
        let mut template = Self { segments: Vec::new(), fields: Vec::new(), verb: None };
        // A colon inside braces would be another syntax, which is refused as a word.
        if let Some((path, verb)) = rest.rsplit_once(':') {
            template.verb = Some(word(verb).ok_or_else(refused)?);
            rest = path;
        }
        while !rest.is_empty() {
            let part = match rest.strip_prefix('{') {
                Some(inside) => {
                    let (variable, after) = inside.split_once('}').ok_or_else(refused)?;
                    let (field, path) = variable.split_once('=').unwrap_or((variable, "*"));
                    let from = template.segments.len();
                    for segment in path.split('/') {
                        template.segments.push(parse_segment(segment).ok_or_else(refused)?);
                    }
                    template.fields.push((field.to_owned(), from..template.segments.len()));
                    after
                }
                None => {
                    let end = rest.find('/').unwrap_or(rest.len());
                    let (segment, after) = rest.split_at(end);
                    template.segments.push(parse_segment(segment).ok_or_else(refused)?);
                    after
                }
            };
            rest = match part.strip_prefix('/') {
                Some("") => return Err(refused()),
                Some(more) => more,
                None if part.is_empty() => part,
                None => return Err(refused()),
            };
        }
        Ok(template)
    }

    /// The fields that `path` says, if this is its template.
    pub(super) fn captures(&self, path: &str) -> Option<Vec<Field>> {
        let path = path.strip_prefix('/')?;
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None => path,
        };
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() != self.segments.len() {
            return None;
        }
        let fits = |(part, segment): (&&str, &Segment)| match segment {
            Segment::Word(word) => word == part,
            // A verb belongs to the template and never to a value.
            Segment::Any => !part.is_empty() && !part.contains(':'),
        };
        if !parts.iter().zip(&self.segments).all(fits) {
            return None;
        }
        let field = |(field, range): &(String, std::ops::Range<usize>)| {
            let value = parts.get(range.clone())?.iter().map(|part| decoded(part));
            Some((field.clone(), value.collect::<Option<Vec<_>>>()?.join("/")))
        };
        self.fields.iter().map(field).collect()
    }
}

/// What a part of a path says. Nothing where somebody else on the way may take it for another path: it would name
/// something else here than there.
fn decoded(part: &str) -> Option<String> {
    let text = percent_decode_str(part).decode_utf8().ok()?;
    let plain = !text.contains(['/', '\\']) && !text.chars().any(char::is_control);
    (plain && text != "." && text != "..").then(|| text.into_owned())
}

fn parse_segment(text: &str) -> Option<Segment> {
    if text == "*" { Some(Segment::Any) } else { word(text).map(Segment::Word) }
}

/// A word of a path.
fn word(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!text.is_empty() && text.chars().all(plain)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        Template::parse(template).expect("a template").captures(path)
    }

    fn field(name: &str, value: &str) -> Option<Vec<(String, String)>> {
        Some(vec![(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_path_names_a_field() {
        let get = "/v1/{name=containers/*}";
        assert_eq!(captured(get, "/v1/containers/600"), field("name", "containers/600"));
        assert_eq!(captured(get, "/v1/containers/a%20b"), field("name", "containers/a b"));
        let deep = "/v1/{name=containers/*/snapshots/*}:switch";
        let name = "containers/600/snapshots/x";
        assert_eq!(captured(deep, &format!("/v1/{name}:switch")), field("name", name));
        let nested = "/v1/{container.name=containers/*}";
        let named = field("container.name", "containers/6");
        assert_eq!(captured(nested, "/v1/containers/6"), named);
        let parent = "/v1/{parent=containers/*}/snapshots";
        assert_eq!(captured(parent, "/v1/containers/6/snapshots"), field("parent", "containers/6"));
        assert_eq!(captured("/v1/containers", "/v1/containers"), Some(vec![]));
    }

    #[test]
    fn another_path_is_another_rule() {
        let get = "/v1/{name=containers/*}";
        let others =
            ["/v1/containers", "/v1/containers/", "/v1/nodes/6", "/v1/containers/6/x", "/v1", ""];
        for other in others.into_iter().chain(["/v1/containers/6:start", "v1/containers/6"]) {
            assert_eq!(captured(get, other), None, "{other}");
        }
        assert_eq!(captured("/v1/{name=containers/*}:start", "/v1/containers/6"), None);
        assert_eq!(captured("/v1/{name=containers/*}:start", "/v1/containers/6:stop"), None);
    }

    #[test]
    fn a_part_of_a_path_is_no_path() {
        let get = "/v1/{name=containers/*}";
        let snapshot = "/v1/{name=containers/*/snapshots/*}";
        for other in
            ["6%2Fsnapshots%2Fx", "6%2fx", "..", "%2e%2E", ".", "6%5Cx", "6%00", "6%0a", "%ff"]
        {
            assert_eq!(captured(get, &format!("/v1/containers/{other}")), None, "{other}");
            let deep = format!("/v1/containers/{other}/snapshots/x");
            assert_eq!(captured(snapshot, &deep), None, "{other}");
        }
        // Once is enough, and a verb is no value's end.
        assert_eq!(captured(get, "/v1/containers/6%252Fx"), field("name", "containers/6%2Fx"));
        assert_eq!(captured(get, "/v1/containers/6%3Astart"), field("name", "containers/6:start"));
        assert_eq!(captured("/v1/{name=containers/*}:start", "/v1/containers/6%3Astart"), None);
    }

    #[test]
    fn a_template_that_says_more_is_refused() {
        for bad in ["", "v1", "/v1/", "/v1//x", "/v1/{name", "/v1/{name=**}", "/v1/{a}b", "/v1/a b"]
        {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
