//! Just enough of Rust's lexical rules to tell code from comments, strings and tests.

/// The text with comments and the contents of strings and characters blanked; lines stay lines.
pub(super) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let from = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    if at(i) == '/' && at(i + 1) == '*' {
                        depth += 1;
                        i += 2;
                    } else if at(i) == '*' && at(i + 1) == '/' {
                        depth -= 1;
                        i += 2;
                    } else {
                        i += 1;
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            'r' if !is_word(&chars, i) && raw_hashes(&chars, i + 1).is_some() => {
                let hashes = raw_hashes(&chars, i + 1).unwrap_or(0);
                i += hashes + 2;
                while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                    i += 1;
                }
                i += hashes + 1;
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            // A character, not a lifetime.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += 1;
                while i < chars.len() && at(i) != '\'' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            c => {
                out.push(c);
                i += 1;
                continue;
            }
        }
        let blanked = chars.get(from..i.min(chars.len())).unwrap_or_default();
        out.extend(blanked.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    }
    out
}

/// How many `#` stand between an `r` and the quote that begins a raw string.
fn raw_hashes(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars.iter().skip(from).take_while(|c| **c == '#').count();
    (chars.get(from + hashes) == Some(&'"')).then_some(hashes)
}

/// Whether the character before `i` belongs to the same word, `b` of a byte string apart.
fn is_word(chars: &[char], i: usize) -> bool {
    let before = |n: usize| i.checked_sub(n).and_then(|i| chars.get(i)).copied().unwrap_or(' ');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    word(before(1)) && (before(1) != 'b' || word(before(2)))
}

/// The text before the unit tests of the file, which stand at its end.
pub(super) fn without_tests(text: &str) -> &str {
    let mut rest = text;
    while let Some(found) = rest.find("#[cfg(test)]") {
        let after = rest.get(found + "#[cfg(test)]".len()..).unwrap_or_default();
        let line = after.trim_start().lines().next().unwrap_or_default();
        if line.starts_with("mod ") && line.ends_with('{') {
            let kept = text.len() - after.len() - "#[cfg(test)]".len();
            return text.get(..kept).unwrap_or(text);
        }
        rest = after;
    }
    text
}

/// Whether a file holds nothing but tests.
pub(super) fn is_test(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    // crates/x/tests/y.rs, tests/host/tests/host/y.rs, src/plan/tests.rs, src/plan_laws.rs
    parts.iter().skip(1).any(|p| ["tests", "benches", "tests.rs", "laws.rs"].contains(p))
        || ["_tests.rs", "_laws.rs"].iter().any(|end| path.ends_with(end))
}

/// Whether `word` stands in `text` as a whole word.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|t| t.chars().next());
        !inside(before) && !inside(after)
    })
}
