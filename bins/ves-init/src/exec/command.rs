//! The command's process, inside: its session, terminal, capabilities, filter, user and directory, and the
//! program it executes.
//!
//! Never here: how it came inside.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use ves_host::channel;
use ves_host::seccomp::Filter;
use ves_host::{Attempt, HostError, namespace, pty};
use ves_init_proto::init_plan::{ExecPlan, refused};
use ves_init_proto::report::{Failure, GO_TO_DIRECTORY};
use ves_init_proto::user::Account;
use ves_types::Features;

use super::account;
use super::handshake::{self, Message};
use crate::perform;

/// A command that does not execute yet.
pub(super) struct Command<'a> {
    pub(super) plan: &'a ExecPlan,
    /// Capabilities it may not have, as bits.
    pub(super) drop: u64,
    /// What of the kernel it may use.
    pub(super) features: Features,
    /// Where it reports to; executing closes it.
    pub(super) status: &'a OwnedFd,
    /// Input, output and error output where it has no terminal.
    pub(super) io: &'a [OwnedFd],
    /// The views that were taken for it.
    pub(super) views: &'a perform::Views,
}

impl Command<'_> {
    /// The descriptors it needs.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let io = self.io.iter().map(AsFd::as_fd).chain([self.status.as_fd()]);
        io.chain(self.views.fds()).collect()
    }

    /// Prepares its process and executes it; answers the status to exit with where that failed.
    pub(super) fn run(&self) -> i32 {
        let account = match self.prepare() {
            Ok(account) => account,
            Err(failure) => return handshake::report(self.status, failure),
        };
        match channel::wait(self.status, Duration::ZERO) {
            Ok(false) => match &self.plan.steps {
                None => handshake::report(self.status, self.execute(account.as_ref())),
                Some(steps) => match perform::adapt(steps, self.views) {
                    Ok(()) => 0,
                    Err(failure) => handshake::report(self.status, failure),
                },
            },
            // The supervisor has given up; nobody would ever hear of the command.
            Ok(true) => 127,
            Err(e) => handshake::report(self.status, entering(&e)),
        }
    }

    /// Makes its process what it is to be; answers whose it is, where that is not root's as ever.
    fn prepare(&self) -> Result<Option<Account>, Failure> {
        let account = self.plan.user.as_ref().map(account::find).transpose()?;
        self.connect(account.as_ref()).map_err(|e| entering(&e))?;
        self.confine(account.as_ref()).map_err(|e| entering(&e))?;
        match &self.plan.cwd {
            Some(cwd) => {
                let there = rustix::process::chdir(cwd.as_str());
                let there = there.attempt(|| "go there".to_owned());
                there.map_err(|e| perform::failure(GO_TO_DIRECTORY, &e))?;
            }
            None => self.go_home(account.as_ref()).map_err(|e| entering(&e))?,
        }
        Ok(account)
    }

    /// Begins its session, with its terminal or its input and output.
    fn connect(&self, account: Option<&Account>) -> Result<(), HostError> {
        rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
        if let Some((rows, cols)) = self.plan.terminal {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pts = rustix::fs::open("/dev/pts", flags, Mode::empty())
                .attempt(|| "open the container's /dev/pts".to_owned())?;
            let pty = pty::open(pts)?;
            pty::resize(&pty.master, rows, cols)?;
            Message::Terminal.send(self.status, &[pty.master.as_fd()])?;
            rustix::process::ioctl_tiocsctty(&pty.slave)
                .attempt(|| "take the terminal".to_owned())?;
            account.map_or(Ok(()), |account| account::give(account, &[], Some(&pty.slave)))?;
            for number in 0..3 {
                namespace::place(&pty.slave, number)?;
            }
        } else {
            account.map_or(Ok(()), |account| account::give(account, self.io, None))?;
            for (fd, number) in self.io.iter().zip(0..3) {
                namespace::place(fd, number)?;
            }
        }
        Ok(())
    }

    /// Gives up what it may not have, and becomes its user.
    fn confine(&self, account: Option<&Account>) -> Result<(), HostError> {
        let keep = CapabilitySet::from_bits_retain(!self.drop);
        let mut until = CapabilitySet::SYS_ADMIN;
        until.set(CapabilitySet::SETUID | CapabilitySet::SETGID, account.is_some());
        namespace::keep_capabilities(keep, until)?;
        Filter::compile(&refused(self.features)).install()?;
        account.map_or(Ok(()), account::become_user)
    }

    fn go_home(&self, account: Option<&Account>) -> Result<(), HostError> {
        let home = self.plan.env.iter().find(|(name, _)| name == "HOME").map(|(_, value)| value);
        let own = || account.map(|account| &account.home);
        let home = home.or_else(own).map_or("/root", String::as_str);
        if rustix::process::chdir(home).is_err() {
            rustix::process::chdir("/").attempt(|| "go to /".to_owned())?;
        }
        Ok(())
    }

    /// Executes the command, and returns only why that failed.
    fn execute(&self, account: Option<&Account>) -> Failure {
        let (ExecPlan { argv, bare, .. }, abi32) = (self.plan, self.features.abi32);
        let mut env = self.plan.env.clone();
        if let Some(account) = account.filter(|_| !bare) {
            account.complete(&mut env);
        }
        let env = &env;
        let Some(name) = argv.first() else {
            return match account {
                Some(account) => self.shell_of(account, env),
                None => self.shell(),
            };
        };
        if name.contains('/') {
            return failure(name, &perform::execute(name, argv, env, abi32));
        }
        let path = env.iter().find(|(n, _)| n == "PATH").map_or("/usr/bin:/bin", |(_, v)| v);
        let mut best = None;
        for dir in std::env::split_paths(OsStr::new(path)) {
            let program = dir.join(name);
            let error = perform::execute(&program.to_string_lossy(), argv, env, abi32);
            if error.is(Errno::NOENT) || error.is(Errno::NOTDIR) {
                best = best.or(Some(error));
            } else if error.is(Errno::ACCESS) {
                best = Some(error);
            } else {
                return failure(name, &error);
            }
        }
        best.map_or_else(
            || Failure {
                step: format!("execute {name}"),
                message: "PATH is empty".to_owned(),
                errno: Errno::NOENT.raw_os_error(),
            },
            |error| failure(name, &error),
        )
    }

    /// The login shell of a user.
    fn shell_of(&self, account: &Account, env: &[(String, String)]) -> Failure {
        let path = &account.shell;
        let name = format!("-{}", path.rsplit('/').next().unwrap_or_default());
        failure(path, &perform::execute(path, &[name], env, self.features.abi32))
    }

    /// A login shell: bash, where there is one.
    fn shell(&self) -> Failure {
        let mut last = None;
        for (path, name) in [("/bin/bash", "-bash"), ("/bin/sh", "-sh")] {
            let mut env = self.plan.env.clone();
            env.retain(|(n, _)| n != "SHELL");
            env.push(("SHELL".to_owned(), path.to_owned()));
            last = Some(failure(
                path,
                &perform::execute(path, &[name.to_owned()], &env, self.features.abi32),
            ));
        }
        last.unwrap_or_else(|| Failure {
            step: "execute a shell".to_owned(),
            message: "there is none".to_owned(),
            errno: Errno::NOENT.raw_os_error(),
        })
    }
}

fn entering(error: &HostError) -> Failure {
    perform::failure("enter the container", error)
}

fn failure(name: &str, error: &HostError) -> Failure {
    perform::failure(&format!("execute {name}"), error)
}
