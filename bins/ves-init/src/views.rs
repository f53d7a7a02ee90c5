//! Looks after the node's views: asks their provider whether it lives, mounts its files for starts of
//! containers to take copies of, and takes them away when it does not answer.
//!
//! ```text
//! lifecycled ── Look ─────▶ this ── open, read ──▶ provider: may hang, and this with it
//!            ◀── Provided ──       ── mount ─────▶ DIR/meminfo, …: who takes a copy never waits
//! ```
//!
//! A process of its own, since who waits for a hanging provider cannot even be killed; its asker asks another
//! to abandon the provider then, which wakes whoever waits for it, in containers too. It ends with its channel.
//! Never here: when to look; containers.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

use rustix::mount::UnmountFlags;
use ves_host::child::{self, How, Life, Why};
use ves_host::mount::{self, attr};
use ves_host::{Attempt, HostError, channel, namespace};
use ves_init_proto::views::{Device, FILE_SYSTEM, Look, PROBE, Provided, VIEWS};

use crate::perform;

/// How much of a file is read to see whether its provider answers.
const PIECE: u64 = 64;
/// How many mounts are taken away at one place.
const MOST: usize = 16;

/// Starts the one who looks, which goes on in the background; its channel is fd 0.
pub(crate) fn main(run_dir: &Path) -> ExitCode {
    let how = How { life: Life::Free(Why::Background), ..How::default() };
    let dir = perform::layout(run_dir).views_dir();
    let begun = child::fork(how, || {
        // Nobody is left to tell of a failure but the channel, which ends.
        namespace::inherit(0).and_then(|channel| serve(&channel, &dir)).ok();
        0
    });
    if begun.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(asker: &OwnedFd, dir: &Path) -> Result<(), HostError> {
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    rustix::process::chdir("/").attempt(|| "go to /".to_owned())?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.attempt(|| "open /dev/null".to_owned())?;
    for number in 0..3 {
        namespace::place(&null, number)?;
    }
    rustix::thread::set_name(c"ves-views").attempt(|| "take a name".to_owned())?;
    loop {
        let packet = channel::receive(asker)?;
        let Ok(look) = serde_json::from_slice(&packet.bytes) else { return Ok(()) };
        let provided = perform_look(dir, &look)
            .unwrap_or_else(|e| Provided::Failed(perform::failure("look after views", &e)));
        channel::send(asker, &serde_json::to_vec(&provided).unwrap_or_default(), &[])?;
    }
}

fn perform_look(dir: &Path, look: &Look) -> Result<Provided, HostError> {
    let Look::At(provider) = look else {
        return take_away(dir, true).map(|()| Provided::Absent);
    };
    let Some(device) = provider_at(provider, dir)? else {
        return take_away(dir, false).map(|()| Provided::Absent);
    };
    let laid = perform::mounted(&dir.join(PROBE.name))? == Some(device);
    let probe = if laid { dir.join(PROBE.name) } else { provider.join(PROBE.at) };
    if !answers(&probe) {
        return take_away(dir, false).map(|()| Provided::Dead);
    }
    if !laid {
        take_away(dir, false)?;
        lay(provider, dir)?;
    }
    let mut names = Vec::new();
    for view in VIEWS {
        if perform::mounted(&dir.join(view.name))? == Some(device) {
            names.push(view.name.to_owned());
        }
    }
    Ok(Provided::Lives { device, names })
}

/// The provider that is mounted there. What is no provider's is not looked into.
fn provider_at(provider: &Path, dir: &Path) -> Result<Option<Device>, HostError> {
    let Some(device) = perform::mounted(provider)? else { return Ok(None) };
    if perform::mounted(&dir.join(PROBE.name))? == Some(device) {
        // It was judged before.
        return Ok(Some(device));
    }
    let found = mount::mounted_at(provider)?.filter(|entry| entry.fs == FILE_SYSTEM);
    Ok(found.map(|entry| Device { major: entry.device.0, minor: entry.device.1 }))
}

/// Whether the provider answers, which may take for ever.
fn answers(file: &Path) -> bool {
    let mut bytes = Vec::new();
    File::open(file).and_then(|file| file.take(PIECE).read_to_end(&mut bytes)).is_ok_and(|n| n > 0)
}

/// Mounts what the provider has of views.
fn lay(provider: &Path, dir: &Path) -> Result<(), HostError> {
    let what = || format!("make {}", dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).attempt(what)?;
    for view in VIEWS {
        let from = provider.join(view.at);
        let copy = match mount::clone_tree(&from, false) {
            Err(e) if e.is(rustix::io::Errno::NOENT) => continue,
            other => other?,
        };
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let change = mount::Change { set, ..mount::Change::default() };
        mount::change(&copy, change, &from.display().to_string())?;
        let at = dir.join(view.name);
        let place = || format!("make {}", at.display());
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        drop(options.open(&at).attempt(place)?);
        mount::node::attach(&copy, &at)?;
    }
    Ok(())
}

/// Takes away all that is mounted; with `abandon`, nobody waits for its provider any longer.
fn take_away(dir: &Path, abandon: bool) -> Result<(), HostError> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let flags = if abandon { flags | UnmountFlags::FORCE } else { flags };
    for view in VIEWS {
        let at = dir.join(view.name);
        for _ in 0..MOST {
            if perform::mounted(&at)?.is_none() {
                break;
            }
            let what = || format!("unmount {}", at.display());
            rustix::mount::unmount(&at, flags).attempt(what)?;
        }
    }
    Ok(())
}
