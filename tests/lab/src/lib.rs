//! What several stories of virtual machines do: a power cut in the middle of an operation, a program of
//! this workspace put on a machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ves_cluster::PATIENCE;
use ves_kit::lab::{Cluster, Machine, story};

/// Puts a program that was built with the tests on a machine, below `/usr/local/bin` and without what only a
/// debugger reads. `built` is where it is among them, such as `xtask` or `examples/thin`.
pub fn install(machine: &dyn Machine, built: &str) -> anyhow::Result<()> {
    let dir = std::env::var_os("VES_BIN_DIR").map(PathBuf::from);
    let dir = dir.or_else(|| Some(story::cache().parent()?.join("debug")));
    let program = dir.context("programs are somewhere")?.join(built);
    let name = Path::new(built).file_name().context("a program has a name")?.display();
    let stripped = tempfile::NamedTempFile::new()?.into_temp_path();
    let (from, to) = (program.display().to_string(), stripped.display().to_string());
    ves_kit::run("strip", &["-o", &to, &from]);
    let bytes = std::fs::read(&stripped).context("read the stripped program")?;
    let place = format!("cat > /usr/local/bin/{name} && chmod 755 /usr/local/bin/{name}");
    let copied = machine.exec_with(&place, &bytes, PATIENCE)?;
    ensure!(copied.status == 0, "{copied:?}");
    Ok(())
}

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
