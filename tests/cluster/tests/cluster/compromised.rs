//! Each daemon is played compromised: what it can do then is what `docs/security.md` says, and nothing else.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use ves_cluster::PATIENCE;
use ves_kit::lab::story;

/// Who tries, in the order of the table's columns.
const WHO: [&str; 6] = ["root", "coordinator", "storage", "network", "resources", "lifecycle"];

/// The page that has the table.
const PAGE: &str = include_str!("../../../../docs/security.md");

/// The table of what was tried, a line each of `who`, `try` and `yes` or `no`, with a tab between.
fn table(said: &str) -> anyhow::Result<String> {
    let mut tries: Vec<&str> = Vec::new();
    let mut answers = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<_> = line.split('\t').collect();
        let [who, tried, answer] = words[..] else { continue };
        if !tries.contains(&tried) {
            tries.push(tried);
        }
        answers.insert((who, tried), answer == "yes");
    }
    let mut table = format!("| can, with the code of another, | {} |\n|---|", WHO.join(" | "));
    table += &":-:|".repeat(WHO.len());
    for tried in tries {
        let row = WHO.map(|who| answers.get(&(who, tried)).copied());
        let row = row.into_iter().collect::<Option<Vec<_>>>();
        let row = row.with_context(|| format!("not all have tried to {tried}"))?;
        ensure!(row.contains(&true), "nobody can {tried}, so that a denial says nothing");
        let row: Vec<_> = row.into_iter().map(|yes| if yes { "yes" } else { "–" }).collect();
        table += &format!("\n| {tried} | {} |", row.join(" | "));
    }
    Ok(table)
}

#[test]
fn what_each_daemon_can_do_is_what_is_written() {
    story::on(1, &[], |lab| {
        let node = lab.node(1);
        node.sh("virtctl create 101 --ostemplate trixie && virtctl start 101 --wait")?;
        let script = include_str!("compromised.sh");
        let tries = include_bytes!("compromised.pl");
        let run = format!("bash -c '{}'", script.replace('\'', r"'\''"));
        let out = node.exec_with(&run, tries, PATIENCE)?;
        ensure!(out.status == 0, "{}{}", out.stdout, out.stderr);
        let table = table(&out.stdout)?;
        ensure!(
            PAGE.contains(&table),
            "docs/security.md says otherwise; what was seen is\n{table}"
        );
        // What was played has changed nothing.
        node.sh("virtctl exec 101 true && virtctl stop 101 && virtctl start 101 --wait").map(drop)
    });
}
