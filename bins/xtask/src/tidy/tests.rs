//! That each rule can fail, and that what is right passes.

use super::scan::{code, has_word, is_test, without_tests};
use super::{File, Package, Problem, Rule, Tree, anatomy, circle, contract, doc, package, source};

fn tree(files: &[(&str, &str)]) -> Tree {
    let file = |(path, text): &(&str, &str)| File { path: (*path).into(), text: (*text).into() };
    Tree { files: files.iter().map(file).collect(), packages: Vec::new() }
}

type Edge = (&'static str, &'static str);

fn with(mut tree: Tree, packages: &[(&str, &str, &[Edge])]) -> Tree {
    let package = |(name, dir, edges): &(&str, &str, &[Edge])| Package {
        name: (*name).into(),
        dir: (*dir).into(),
        edges: edges.iter().map(|(to, kind)| ((*to).into(), *kind)).collect(),
    };
    tree.packages = packages.iter().map(package).collect();
    tree
}

#[track_caller]
fn good(rule: Rule, tree: &Tree) {
    assert_eq!(rule(tree), [], "it holds");
}

#[track_caller]
fn bad(rule: Rule, tree: &Tree, expected: &[&str]) {
    let found: Vec<_> = rule(tree).iter().map(Problem::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found:?} should contain {expected:?}");
    }
}

#[test]
fn edges_are_listed() {
    let list = ("bins/xtask/edges.txt", "# comment\na -> b\na -> c (dev)\n");
    let packages: &[(&str, &str, &[Edge])] = &[("a", "crates/a", &[("b", "normal"), ("c", "dev")])];
    good(package::edges_listed, &with(tree(&[list]), packages));
    let packages: &[(&str, &str, &[Edge])] =
        &[("a", "crates/a", &[("b", "normal"), ("c", "normal")])];
    bad(
        package::edges_listed,
        &with(tree(&[list]), packages),
        &["`a -> c` is new", "`a -> c (dev)` is listed"],
    );
    bad(
        package::edges_listed,
        &tree(&[("bins/xtask/edges.txt", "b -> c\na -> b\n")]),
        &["does not exist", "does not exist", "sorted"],
    );
    bad(package::edges_listed, &tree(&[]), &["missing"]);
}

#[test]
fn the_unprivileged_do_not_reach_the_host() {
    let through: &[(&str, &str, &[Edge])] = &[
        ("virtctl", "bins/virtctl", &[("ves-daemon", "normal"), ("ves-host", "dev")]),
        ("ves-daemon", "crates/ves-daemon", &[("ves-types", "normal")]),
    ];
    good(package::reach, &with(tree(&[]), through));
    let through: &[(&str, &str, &[Edge])] = &[
        ("virtctl", "bins/virtctl", &[("ves-daemon", "normal")]),
        ("ves-daemon", "crates/ves-daemon", &[("ves-host", "normal")]),
    ];
    bad(package::reach, &with(tree(&[]), through), &["virtctl -> ves-daemon -> ves-host"]);
}

#[test]
fn manifests_take_lints_and_versions_from_the_workspace() {
    let one: &[(&str, &str, &[Edge])] = &[("a", "crates/a", &[])];
    let text = "[lints]\nworkspace = true\n\n[dependencies]\n# why\nb.workspace = true\nc = { workspace = true, features = [\n    \"x\",\n] }\n\n[dev-dependencies]\na.workspace = true\n";
    let fine = with(tree(&[("crates/a/Cargo.toml", text)]), one);
    good(package::lints, &fine);
    good(package::dependencies, &fine);
    let text = "[dependencies]\nworkspace = true\nd.workspace = true\nc = \"1\"\n";
    let wrong = with(tree(&[("crates/a/Cargo.toml", text)]), one);
    bad(package::lints, &wrong, &["add `[lints]`"]);
    let wrong = with(
        tree(&[("crates/a/Cargo.toml", "[dependencies]\nd.workspace = true\nc = \"1\"\n")]),
        one,
    );
    bad(package::dependencies, &wrong, &["c must be the workspace's", "c stands after d"]);
}

#[test]
fn dependencies_are_used() {
    let one: &[(&str, &str, &[Edge])] = &[("a", "crates/a", &[])];
    let root = ("Cargo.toml", "[workspace.dependencies]\nb-c = \"1\"\nd = \"1\"\n");
    let lists = "[dependencies]\nb-c.workspace = true\n[dev-dependencies]\nd.workspace = true\n[build-dependencies]\nd.workspace = true\n";
    let manifest = ("crates/a/Cargo.toml", lists);
    let tests = "use b_c::X;\n#[cfg(test)]\nmod tests {\n    use d::X;\n}\n";
    let all = |lib: &str, build: &str| {
        let files = [("crates/a/src/lib.rs", lib), ("crates/a/build.rs", build)];
        with(tree(&[root, manifest, files[0], files[1]]), one)
    };
    let unused = |tree: &Tree| package::unused_but(tree, &[]);
    good(unused, &all(tests, "use d::X;"));
    bad(unused, &all(tests, "use b_c::X; // d"), &["Cargo.toml:6: d"]);
    bad(unused, &all("use b_c::X;", "use d::X;"), &["Cargo.toml:4: d"]);
    let tests = "#[cfg(test)]\nmod tests {\n    use b_c::X; use d::X;\n}\n";
    bad(unused, &all(tests, "use d::X;"), &["Cargo.toml:2: b-c: nothing but tests"]);
    let excused = |tree: &Tree| package::unused_but(tree, &[("a", "b-c", "why")]);
    good(excused, &all(tests, "use d::X;"));
    bad(excused, &all("use b_c::X; use d::X;", "use d::X;"), &["without need"]);
    bad(unused, &tree(&[root]), &["Cargo.toml:2: b-c", "Cargo.toml:3: d: no package"]);
    bad(package::unused, &tree(&[]), &["ves-proto"]);
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let lib = ("crates/p/src/lib.rs", "mod a;\nmod b;\npub use b::Given;\npub struct Shared;\n");
    let two = |a: &str, b: &str| tree(&[lib, ("crates/p/src/a.rs", a), ("crates/p/src/b.rs", b)]);
    let uses_a = "use crate::a::{self, X as Y};\n";
    let circle = "crates/p/src/a.rs: circle: a.rs -> b.rs (Z), b.rs -> a.rs (X, a); move";
    good(circle::circles, &two("use super::Shared;\nuse crate::Shared as S;\n", uses_a));
    for used in [
        "use super::b::Z;",
        "use crate::{Shared, b::Z};",
        "fn f() -> super::b::Z { g() }",
        "fn f() { g!(1, [crate::b::Z::new()]) }",
        "mod inner { use super::super::b::Z; }",
    ] {
        bad(circle::circles, &two(used, uses_a), &[circle]);
    }
    // What the root only passes on is of the file that has it.
    bad(circle::circles, &two("use crate::Given;", uses_a), &["a.rs -> b.rs (Given)"]);
    for other in [
        "// use crate::b::Z;",
        "#[cfg(test)]\nmod tests { use crate::b::Z; }",
        "#[cfg(test)]\nuse crate::b::Z;",
        "use b::Z;",
        "use ::b::Z;",
        "/// [`crate::b::Z`]\nstruct A;",
    ] {
        good(circle::circles, &two(other, uses_a));
    }
    bad(circle::circles, &two("use crate::b::Z", ""), &["is not Rust"]);
}

#[test]
fn circles_are_found_through_chains_and_folders_and_not_between_parent_and_child() {
    let lib = ("bins/p/src/main.rs", "mod a;\nmod b;\nmod c;\n");
    let parent = ("bins/p/src/a/mod.rs", "mod x;\nmod y;\nuse x::X;\npub struct A;\n");
    let x = ("bins/p/src/a/x.rs", "use super::A;\nuse super::y::Y;\npub struct X;\n");
    let y = ("bins/p/src/a/y.rs", "use crate::c::C;\n");
    let b = ("bins/p/src/b.rs", "use crate::a::A;\n");
    good(circle::circles, &tree(&[lib, parent, x, y, b, ("bins/p/src/c.rs", "")]));
    bad(
        circle::circles,
        &tree(&[lib, parent, x, y, b, ("bins/p/src/c.rs", "use crate::b::B;\n")]),
        &["a/y.rs: circle: a/y.rs -> c.rs (C), c.rs -> b.rs (B), b.rs -> a/mod.rs (A)"],
    );
    let y = ("bins/p/src/a/y.rs", "use super::X;\n");
    bad(circle::circles, &tree(&[lib, parent, x, y]), &["a/x.rs -> a/y.rs (Y), a/y.rs -> a/x.rs"]);
    let tests = ("bins/p/src/a/x_tests.rs", "use super::y::Y;\n");
    good(circle::circles, &tree(&[lib, parent, y, tests]));
    let fake = ("bins/p/src/a/mod.rs", "#[cfg(test)]\nmod x;\nmod y;\npub use x::X;\n");
    good(circle::circles, &tree(&[lib, fake, x, y]));
}

#[test]
fn the_code_map_is_complete() {
    let one: &[(&str, &str, &[Edge])] = &[("a", "crates/a", &[])];
    let readme = |map: &str| {
        with(
            tree(&[("README.md", &format!("# x\n\n## Code map\n{map}\n\n## Next\n`crates/z`"))]),
            one,
        )
    };
    good(package::code_map, &readme("- `crates/a` – all, in `crates/a/src`"));
    bad(
        package::code_map,
        &readme("- `crates/b`"),
        &["lacks `crates/a`", "`crates/b`, which is no package"],
    );
    bad(package::code_map, &with(tree(&[("README.md", "# x")]), one), &["no section"]);
    bad(package::code_map, &tree(&[]), &["missing"]);
}

#[test]
fn files_begin_with_what_they_own_and_are_short() {
    good(source::header, &tree(&[("crates/a/src/lib.rs", "//! Owns a.\n")]));
    bad(source::header, &tree(&[("crates/a/src/lib.rs", "use b;\n")]), &["begin it"]);
    let tests = format!("//! A.\n#[cfg(test)]\nmod tests {{{}}}\n", "\n".repeat(597));
    let long = format!("{tests}\n");
    for path in ["crates/a/src/lib.rs", "crates/a/src/laws.rs", "bins/a/tests/all.rs"] {
        good(source::length, &tree(&[(path, &tests)]));
        bad(source::length, &tree(&[(path, &long)]), &["601 lines"]);
    }
    good(source::length, &tree(&[("tests/host/tests/all.rs", &long)]));
    good(source::main_length, &tree(&[("bins/a/src/main.rs", &"\n".repeat(40))]));
    bad(source::main_length, &tree(&[("bins/a/src/main.rs", &"\n".repeat(41))]), &["40 lines"]);
}

#[test]
fn planners_are_pure() {
    let text = "//! Pure.\n// std::fs is not here\nuse std::net::IpAddr;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    good(source::purity, &tree(&[("crates/a/src/plan.rs", text)]));
    let text = "use std::time::SystemTime;\nuse tokio::fs;\n";
    bad(source::purity, &tree(&[("crates/a/src/plan.rs", text)]), &["tokio", "SystemTime"]);
    bad(source::purity, &tree(&[("crates/a/src/plan/node.rs", "use std::fs;")]), &["std::fs"]);
    good(source::purity, &tree(&[("crates/a/src/host.rs", text)]));
    for head in ["What to do. Pure.", "Parses: pure.", "A.\n//!\n//! Pure: asks none."] {
        let text = format!("//! {head}\nuse tonic::Status;\n");
        bad(source::purity, &tree(&[("crates/a/src/a.rs", &text)]), &["may not use tonic"]);
    }
    for head in ["A pure function of it.", "api -> plan (pure)", "Does.\n\n//! Pure."] {
        let text = format!("//! {head}\nuse tonic::Status;\n");
        good(source::purity, &tree(&[("crates/a/src/a.rs", &text)]));
    }
}

#[test]
fn privileged_services_have_one_anatomy() {
    let texts = [
        ("api.rs", ""),
        ("config.rs", ""),
        ("error.rs", "pub enum Error {}"),
        ("fake.rs", ""),
        ("host.rs", "pub trait Host {\n    fn a(&self);\n}\n"),
        ("kernel/mod.rs", "pub struct KernelHost;"),
        ("lib.rs", ""),
        ("observe.rs", ""),
        ("plan.rs", ""),
        ("plan/laws.rs", ""),
    ];
    let services = ["storage", "network", "resources", "lifecycle"];
    let but = |changed: &str, to: Option<(&str, &str)>| {
        let mut files = Vec::new();
        for service in services {
            let changed = |file: &str| service == "network" && file == changed;
            for (file, text) in texts.iter().copied().filter(|(file, _)| !changed(file)) {
                files.push((format!("crates/ves-{service}/src/{file}"), text));
            }
        }
        files.extend(to.map(|(file, text)| (format!("crates/ves-network/src/{file}"), text)));
        tree(&files.iter().map(|(file, text)| (file.as_str(), *text)).collect::<Vec<_>>())
    };
    let same = |tree: &Tree| anatomy::same_but(tree, &[]);
    good(same, &but("", None));
    good(same, &but("kernel/mod.rs", Some(("kernel.rs", "pub struct KernelHost;"))));
    for (file, _) in texts.iter().filter(|(file, _)| *file != "kernel/mod.rs") {
        bad(same, &but(file, None), &[&format!("ves-network/src/{file}: is missing")]);
    }
    bad(same, &but("kernel/mod.rs", None), &["kernel.rs: is missing"]);
    bad(same, &but("", Some(("exec/a.rs", ""))), &["exec/a.rs: what acts"]);
    for (file, text, expected) in [
        ("kernel/mod.rs", "struct KernelHost;", "no `pub struct KernelHost`"),
        ("error.rs", "pub struct Error;", "no `pub enum Error`"),
        ("host.rs", "// pub trait Host {}", "no `pub trait Host`"),
        ("host.rs", "pub trait Host {\n    fn a(&self) {}\n}\n", "a has a body"),
        ("host.rs", "pub trait", "is not Rust"),
    ] {
        bad(same, &but(file, Some((file, text))), &[expected]);
    }
    let excuse = [("crates/ves-network/src/fake.rs", "why")];
    let excused = |tree: &Tree| anatomy::same_but(tree, &excuse);
    assert_eq!(excused(&but("fake.rs", None)), []);
    assert_eq!(excused(&but("", None)).len(), 1, "an excuse is idle");
}

#[test]
fn docs_of_errors_name_them() {
    let docs = |text: &str| {
        let lines: Vec<_> = text.lines().map(|line| format!("    /// {line}\n")).collect();
        tree(&[("a.rs", &format!("{}    fn a();\n    // `b`\n", lines.concat()))])
    };
    good(doc::errors, &docs("Does.\n\n# Errors\n[`Error::Full`]."));
    good(doc::errors, &docs("# Errors\nWhere it is not there,\n`NOT_FOUND`."));
    good(doc::errors, &docs("# Errors\nAll problems."));
    bad(doc::errors, &docs("Does `a`.\n\n# Errors\nWhen it fails."), &["a.rs:3"]);
    bad(doc::errors, &docs("# Errors\nWhen it fails.\n\n# Panics\n`a`."), &["a.rs:1"]);
    bad(doc::errors, &docs("# Errors"), &["a.rs:1"]);
    bad(doc::errors, &tree(&[("a.rs", "//! # Errors\n//! It fails.\n/// `a`\n")]), &["a.rs:1"]);
}

#[test]
fn unsafe_code_is_in_one_place() {
    let text = "//! unsafe in a comment\n#![deny(unsafe_code)]\nconst A: &str = \"unsafe\";\n";
    good(source::unsafe_code, &tree(&[("crates/a/src/lib.rs", text)]));
    let text = "fn a() { unsafe { b() } }";
    bad(source::unsafe_code, &tree(&[("crates/a/src/lib.rs", text)]), &["belongs in"]);
    good(source::unsafe_code, &tree(&[("crates/ves-host/src/lib.rs", text)]));
}

#[test]
fn processes_are_copied_in_one_place() {
    let copies = |tree: &Tree| source::copies_but(tree, &[("crates/a/src/child.rs", "why")]);
    let text = "fn a() { syscall(libc::SYS_clone3) }\n";
    let one = ("crates/a/src/child.rs", text);
    let other =
        "//! Not SYS_clone.\nconst A: &str = \"SYS_fork\";\nfn a() { SYS_clone4(SYS_close) }\n";
    good(copies, &tree(&[one, ("crates/a/src/lib.rs", other)]));
    for call in ["SYS_clone", "SYS_clone3", "SYS_fork", "SYS_vfork"] {
        let text = format!("use libc::{call} as n;\n");
        bad(copies, &tree(&[one, ("crates/ves-host/src/b.rs", &text)]), &[call]);
        bad(copies, &tree(&[one, ("tests/host/tests/b.rs", &text)]), &["ves_host::child"]);
    }
    bad(copies, &tree(&[("crates/a/src/child.rs", other)]), &["does not"]);
    bad(source::copies, &tree(&[]), &["does not", "does not", "does not", "does not"]);
}

#[test]
fn nothing_is_left_undone_and_no_path_is_of_one_machine() {
    let word = ["TO", "DO"].concat();
    bad(source::undone, &tree(&[("a.md", &format!("x\n{word}: y\n"))]), &["a.md:2"]);
    let debug = ["dbg", "!(x)"].concat();
    bad(source::undone, &tree(&[("a.rs", &debug)]), &["debugging"]);
    good(source::undone, &tree(&[("a.rs", "// a method\n")]));
    let path = ["/wo", "rk/x"].concat();
    bad(source::absolute, &tree(&[("a.md", &path)]), &["a.md:1"]);
    let place = ["/wo", "rk"].concat();
    for quoted in ["\"P\"", "'P'", "`P`", "(P)", "in P.", "P", "A=P:", "P,"] {
        let text = quoted.replace('P', &place);
        bad(source::absolute, &tree(&[("a.md", &text)]), &["a.md:1"]);
    }
    for other in ["/workspace/x", "P-load", "net/P", "a/bP/c", "P.d/x"] {
        let text = other.replace('P', &place);
        good(source::absolute, &tree(&[("a.md", &text)]));
    }
    let host = ["http://deb.debian", ".org/debian"].concat();
    bad(source::mirrors, &tree(&[("a.rs", &format!("x\n\"{host}\""))]), &["a.rs:2"]);
    good(source::mirrors, &tree(&[("a.rs", "http://mirror.example/debian")]));
}

#[test]
fn calls_carry_no_paths() {
    let proto = |field: &str| {
        let text = format!(
            "message XRequest {{\n  // A path.\n  {field} = 1;\n}}\nmessage X {{\n  string path = 1;\n}}\n"
        );
        tree(&[("proto/ves/storage/v1/storage.proto", &text)])
    };
    good(contract::no_paths, &proto("string template"));
    good(contract::no_paths, &proto("optional uint64 device"));
    bad(contract::no_paths, &proto("string backing_path"), &["XRequest.backing_path"]);
    bad(contract::no_paths, &proto("repeated string devices"), &["XRequest.devices"]);
}

#[test]
fn reasons_are_documented() {
    let proto = |text: &str| tree(&[("proto/ves/api/v1/errors.proto", text)]);
    good(contract::reasons, &proto("enum Reason {\n  // Never.\n  REASON_A = 0;\n}\n"));
    bad(
        contract::reasons,
        &proto("enum Reason {\n  // Never.\n  REASON_A = 0;\n  REASON_B = 1;\n}\n"),
        &["REASON_B"],
    );
    bad(contract::reasons, &tree(&[]), &["missing"]);
}

#[test]
fn public_calls_are_tested() {
    let proto = (
        "proto/ves/api/v1/node.proto",
        "service C {\n  // Gets.\n  rpc GetNode(A) returns (B);\n}\n",
    );
    good(contract::tested, &tree(&[proto, ("tests/sim/tests/a.rs", "client.get_node(x)")]));
    bad(
        contract::tested,
        &tree(&[proto, ("tests/sim/tests/a.rs", "client.get_nodes(x)")]),
        &["GetNode"],
    );
    bad(
        contract::tested,
        &tree(&[proto, ("tests/host/tests/a.rs", "client.get_node(x)")]),
        &["GetNode"],
    );
}

#[test]
fn shell_parses() {
    good(
        contract::shell,
        &tree(&[("README.md", "```sh\ncargo xtask up\n```\n```text\nif (\n```\n")]),
    );
    bad(
        contract::shell,
        &tree(&[("README.md", "x\n```sh\nif true; then\n```\n")]),
        &["README.md:3"],
    );
    bad(contract::shell, &tree(&[("run.sh", "(")]), &["run.sh"]);
}

#[test]
fn code_is_told_from_comments_strings_and_tests() {
    let text = "a /* b /* c */ d */ e \"f\\\"g\" h r#\"i\"j\"# 'k' '\\'' l<'m> // n\no b\"p\" br\"q\" var\n";
    let words: Vec<_> = code(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "e", "h", "l<'m>", "o", "b", "b", "var"]);
    assert_eq!(code(text).lines().count(), text.lines().count());
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n}\n"), "a\n");
    assert_eq!(
        without_tests("a\n#[cfg(test)]\nmod tests;\nb\n"),
        "a\n#[cfg(test)]\nmod tests;\nb\n"
    );
    assert!(has_word("std::fs::x", "std::fs") && !has_word("operand", "rand"));
    assert!(is_test("crates/a/src/plan/tests.rs") && is_test("crates/a/src/plan_laws.rs"));
    assert!(!is_test("tests/kit/src/lib.rs"));
}
