//! Starting `ves-init`: by the starter where the service manager runs one, else as a child.
//!
//! A child would be in this daemon's sandbox for good, and so would the container; so a daemon in one
//! never starts it itself.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use ves_host::channel;
use ves_host::{Attempt, Cmd, HostError, mount};
use ves_init_proto::Launch;
use ves_types::layout::Layout;

/// Starts it with these as standard input and output. It forks and ends at once, so that nobody has
/// to wait for what it leaves behind; whether it came to something is heard by the descriptors.
pub(super) fn launch(
    layout: &Layout,
    ves_init: &Path,
    launch: Launch,
    stdin: OwnedFd,
    stdout: Option<OwnedFd>,
) -> Result<(), HostError> {
    if let Some(starter) = channel::connect(&layout.starter_socket())? {
        let bytes = serde_json::to_vec(&launch).unwrap_or_default();
        let fds: Vec<_> = std::iter::once(&stdin).chain(&stdout).map(AsFd::as_fd).collect();
        return channel::send(&starter, &bytes, &fds);
    }
    if mount::node::adopt() {
        return Err(HostError::Lacks {
            feature: "the starter of containers".to_owned(),
            why: format!(
                "nothing is at {}, and what this daemon starts would be in its sandbox; `systemctl \
                 start ves-starter.socket` brings it",
                layout.starter_socket().display()
            ),
        });
    }
    let cmd = match launch {
        Launch::Monitor { ct } => Cmd::new(ves_init).arg("monitor").arg(ct.to_string()),
        Launch::Exec => Cmd::new(ves_init).arg("exec"),
        Launch::Views => Cmd::new(ves_init).arg("views"),
    };
    let cmd = cmd.arg(layout.run_dir());
    let stdout = stdout.map_or_else(Stdio::null, Stdio::from);
    let mut child = cmd.stdin(stdin).spawn(stdout, Stdio::null())?;
    child.wait().map(drop).attempt(|| "reap a starter".to_owned())
}
