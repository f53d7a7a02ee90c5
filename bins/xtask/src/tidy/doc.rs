//! Rules about what is said of code.

use super::{Problem, Tree};

/// Who reads of errors wants to branch on them; that something may fail, its type says.
pub(super) fn errors(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.ending(".rs") {
        let mut lines = file.text.lines().enumerate().peekable();
        while let Some((n, line)) = lines.next() {
            let Some((kind, "# Errors")) = doc(line) else { continue };
            let mut text = String::new();
            while let Some((_, line)) = lines.peek()
                && let Some((same, more)) = doc(line)
                && same == kind
                && !more.starts_with('#')
            {
                text.push_str(more);
                lines.next();
            }
            if !text.contains(['`', '[']) && !text.starts_with("All problems") {
                let what = "`# Errors` names none to branch on: name it, or leave it out";
                problems.push(Problem::new(format!("{}:{}", file.path, n + 1), what));
            }
        }
    }
    problems
}

/// The kind and text of a line of documentation.
fn doc(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let (kind, text) = line.split_at_checked(3)?;
    ["///", "//!"].contains(&kind).then(|| (kind, text.trim()))
}
