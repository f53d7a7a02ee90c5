//! What several stories of virtual machines do: a power cut in the middle of an operation.

use anyhow::{Context, ensure};
use ves_cluster::PATIENCE;
use ves_kit::lab::{Cluster, Machine};

/// Has a node do something by virtctl, an operation of this kind on this container, cuts the power
/// when it says that it is at `step`, and switches it on again.
pub fn cut_at(lab: &Cluster, step: &str, kind: &str, ct: u32, more: &str) -> anyhow::Result<()> {
    let node = lab.vm(1);
    node.power_cut_at(&format!("virtctl {kind} {ct} {more}"), step)?;
    lab.power_on(1)?;
    // The coordinator keeps operations: this one began before the boot and ends after it.
    let ended = format!(
        "virtctl operation list -o csv -H --fields kind,ctid,started,ended |
             sed -n 's/^{kind},{ct},//p' | head -1 | grep ',.'"
    );
    let operation = node.until(&ended, PATIENCE)?;
    let boot = node.sh("date -u -d @$(sed -n 's/^btime //p' /proc/stat) +%FT%T")?;
    let (started, ended) = operation.split_once(',').context("a line of two times")?;
    // The kernel tells of its boot in whole seconds, and a machine may be back within one.
    let second = started.get(..boot.len()).unwrap_or(started);
    ensure!(
        second <= boot.as_str() && boot.as_str() < ended,
        "{kind} was not cut: {operation}, boot {boot}"
    );
    Ok(())
}
