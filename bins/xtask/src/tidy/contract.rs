//! Rules about what others hold us to: the protocol files, the README, shell scripts.

use std::io::Write;
use std::process::Stdio;

use super::scan::has_word;
use super::{Problem, Tree};
use crate::tool;

/// A message or enum of a protocol file: its name and its lines with their numbers.
struct Block<'a> {
    name: &'a str,
    lines: Vec<(usize, &'a str)>,
}

/// The outermost blocks of one kind (`message`, `enum`, `service`).
fn blocks<'a>(text: &'a str, kind: &str) -> Vec<Block<'a>> {
    let mut blocks: Vec<Block<'a>> = Vec::new();
    let mut depth = 0_usize;
    let mut ours = false;
    for (n, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let first = code.trim_start().strip_prefix(kind).filter(|r| r.starts_with(' '));
        if let (0, Some(rest)) = (depth, first) {
            let name = rest.trim_start().split([' ', '{']).next().unwrap_or_default();
            blocks.push(Block { name, lines: Vec::new() });
            ours = true;
        } else if ours
            && depth > 0
            && let Some(block) = blocks.last_mut()
        {
            block.lines.push((n + 1, line));
        }
        depth = (depth + code.matches('{').count()).saturating_sub(code.matches('}').count());
        ours &= depth > 0;
    }
    blocks
}

/// The privileged services, whose callers may be hostile.
const PRIVILEGED: &[&str] = &["storage", "network", "resources", "lifecycle"];

/// A privileged service derives paths and devices from identities, so none may be handed to it.
pub(super) fn no_paths(tree: &Tree) -> Vec<Problem> {
    let privileged =
        |path: &str| PRIVILEGED.iter().any(|s| path.starts_with(&format!("proto/ves/{s}/")));
    let asks =
        |name: &str| ["Request", "Spec", "Header", "Options"].iter().any(|e| name.ends_with(e));
    let named = |field: &str| {
        let parts: Vec<_> = field.split('_').collect();
        parts.iter().any(|p| {
            ["path", "paths", "dev", "device", "devices", "dir", "file", "mountpoint"].contains(p)
        })
    };
    let mut problems = Vec::new();
    for file in tree.ending(".proto").filter(|f| privileged(&f.path)) {
        for block in blocks(&file.text, "message").into_iter().filter(|b| asks(b.name)) {
            for (n, line) in block.lines {
                let code = line.split("//").next().unwrap_or_default();
                let Some((left, _)) = code.split_once('=') else { continue };
                let words: Vec<_> = left.split_whitespace().collect();
                let (Some(field), Some(kind)) = (words.last(), words.iter().rev().nth(1)) else {
                    continue;
                };
                if ["string", "bytes"].contains(kind) && named(field) {
                    problems.push(Problem::new(
                        format!("{}:{n}", file.path),
                        format!(
                            "{}.{field} names a file or device; derive it from an identity",
                            block.name
                        ),
                    ));
                }
            }
        }
    }
    problems
}

const ERRORS: &str = "proto/ves/api/v1/errors.proto";

/// Whoever gets a reason can read what to do.
pub(super) fn reasons(tree: &Tree) -> Vec<Problem> {
    let Some(text) = tree.text(ERRORS) else {
        return vec![Problem::new(ERRORS, "is missing")];
    };
    let mut problems = Vec::new();
    for block in blocks(text, "enum") {
        let mut commented = false;
        for (n, line) in block.lines {
            let line = line.trim();
            if line.starts_with("//") {
                commented = true;
            } else if !line.is_empty() {
                let name = line.split_whitespace().next().unwrap_or_default();
                if !commented && name.starts_with("REASON_") {
                    problems.push(Problem::new(
                        format!("{ERRORS}:{n}"),
                        format!("say when {name} is sent and what to do"),
                    ));
                }
                commented = false;
            }
        }
    }
    problems
}

/// `GetContainer` → `get_container`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Each call of the public API is made by a test of the whole system.
pub(super) fn tested(tree: &Tree) -> Vec<Problem> {
    let tests: Vec<_> = tree.ending(".rs").filter(|f| f.path.starts_with("tests/sim/")).collect();
    let mut problems = Vec::new();
    for file in tree.ending(".proto").filter(|f| f.path.starts_with("proto/ves/api/")) {
        for service in blocks(&file.text, "service") {
            for (n, line) in service.lines {
                let Some(rest) = line.trim().strip_prefix("rpc ") else { continue };
                let rpc = rest.split('(').next().unwrap_or_default().trim();
                let call = snake(rpc);
                if !tests.iter().any(|t| has_word(&t.text, rpc) || has_word(&t.text, &call)) {
                    problems.push(Problem::new(
                        format!("{}:{n}", file.path),
                        format!("no test in tests/sim calls {rpc}"),
                    ));
                }
            }
        }
    }
    problems
}

/// What a person may paste into a shell can be parsed by one.
pub(super) fn shell(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in &tree.files {
        if file.path.ends_with(".md") {
            for (line, block) in fenced(&file.text) {
                if let Some(why) = bash(&block) {
                    problems.push(Problem::new(format!("{}:{line}", file.path), why));
                }
            }
        } else if (file.path.ends_with(".sh")
            || file.text.starts_with("#!/bin/bash")
            || file.text.starts_with("#!/bin/sh"))
            && let Some(why) = bash(&file.text)
        {
            problems.push(Problem::new(&file.path, why));
        }
    }
    problems
}

/// The blocks marked `sh` or `bash`, each with the number of its first line.
fn fenced(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (n, line) in text.lines().enumerate() {
        match (&mut open, line.trim()) {
            (Some(_), "```") => blocks.extend(open.take()),
            (Some((_, block)), _) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, "```sh" | "```bash") => open = Some((n + 2, String::new())),
            (None, _) => {}
        }
    }
    blocks
}

/// Why bash cannot parse it, if so.
fn bash(script: &str) -> Option<String> {
    let mut bash = tool::command("bash", &["-n"]);
    bash.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match bash.spawn() {
        Ok(child) => child,
        Err(e) => return Some(format!("cannot start bash: {e}")),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A shell that has seen enough closes its input; its answer tells the rest.
        stdin.write_all(script.as_bytes()).ok();
    }
    match child.wait_with_output() {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        Err(e) => Some(format!("cannot wait for bash: {e}")),
    }
}
