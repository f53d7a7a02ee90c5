//! A node of a test's own: five real daemons on directories of its own, driven through `virtctl`.
//!
//! Names that the kernel has once (links, control groups, addresses) come from the container's id,
//! so a test takes its ids from [`TestNode::ct`]. When the node goes its containers are destroyed,
//! its daemons end, and what is left all the same is swept away. Never here: knowledge of what the
//! daemons do.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use ves_types::CtId;
use ves_types::layout::{COORDINATOR_USER, Daemon, Layout};

use crate::guard::{TestId, TestLayout, run};
use crate::inventory::{Inventory, Kind};
use crate::need::{self, Lack};
use crate::rootfs::Rootfs;
use crate::stack::{self, Stack};
use crate::sweep;

/// A node of a test's own.
#[derive(Debug)]
pub struct TestNode {
    stack: Stack,
    ids: Mutex<Vec<TestId>>,
    dir: TestLayout,
}

/// What a node needs of the machine; for [`need!`](crate::need!).
pub fn node() -> Result<(), Lack> {
    need::root()?;
    need::disposable()?;
    need::program("nft", "nftables")?;
    need::program("mke2fs", "e2fsprogs")?;
    need::program("busybox", "busybox-static")?;
    let there = matches!(stack::account(COORDINATOR_USER), Ok(Some(_)));
    need::setup("the user `ves`", there, "`cargo xtask up` creates it")?;
    stack::programs().try_for_each(need::built)
}

/// Where the programs under test are: `VES_BIN_DIR`, or beside the test's own executable.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("VES_BIN_DIR").map_or_else(
        || {
            // target/<profile>/deps/test-0123
            let exe = std::env::current_exe().unwrap_or_default();
            exe.ancestors().nth(2).unwrap_or_else(|| Path::new("/")).to_owned()
        },
        PathBuf::from,
    )
}

impl TestNode {
    /// Starts one, without containers or templates.
    ///
    /// # Panics
    /// When a daemon does not come up; ask [`node`] first.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(|_, _| String::new())
    }

    /// The same with these sections in the configuration of each daemon.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[track_caller]
    pub fn start_with(sections: impl Fn(Daemon, &Layout) -> String) -> Self {
        Self::start_from(TestLayout::new(), bin_dir(), sections, |_| "")
    }

    /// The same with these settings of one daemon's own.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[track_caller]
    pub fn start_where(service: Daemon, settings: &str) -> Self {
        let own = |which| if which == service { settings } else { "" };
        Self::start_from(TestLayout::new(), bin_dir(), |_, _| String::new(), own)
    }

    /// The same from copies of the programs in a directory of its own, which may be replaced.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[track_caller]
    pub fn start_from_copies() -> Self {
        let dir = TestLayout::new();
        let copies = dir.dir().join("bin");
        std::fs::create_dir(&copies).expect("a directory for programs");
        for name in stack::programs() {
            std::fs::copy(bin_dir().join(name), copies.join(name)).expect("a copy");
        }
        Self::start_from(dir, copies, |_, _| String::new(), |_| "")
    }

    #[track_caller]
    fn start_from<'a>(
        dir: TestLayout,
        programs: PathBuf,
        sections: impl Fn(Daemon, &Layout) -> String,
        settings: impl Fn(Daemon) -> &'a str,
    ) -> Self {
        // The coordinator's user must get through to its socket.
        run("chmod", &["0755", dir.dir().to_str().expect("test paths are text")]);
        let configs = dir.dir().join("etc");
        std::fs::create_dir(&configs).expect("a directory for configuration");
        for service in Daemon::ALL {
            // A small pool is enough.
            let own = if service == Daemon::Storage { "pool_bytes = 4294967296\n" } else { "" };
            let (sections, more) = (sections(service, dir.layout()), settings(service));
            let text = format!("{sections}\n[service]\n{own}{more}");
            std::fs::write(configs.join(format!("{}.toml", service.name())), text)
                .expect("a configuration file");
        }
        let stack = Stack::new(dir.layout().clone(), programs, dir.dir().join("logs"));
        let mut stack = stack.with_configs(configs);
        stack.prepare().expect("directories for the daemons");
        let node = Self { stack, ids: Mutex::default(), dir };
        node.stack.start_all().expect("five daemons");
        node
    }

    /// Its daemons.
    pub const fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Its directories.
    pub const fn layout(&self) -> &Layout {
        self.dir.layout()
    }

    /// A directory for further files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.dir()
    }

    /// A container id that no other test uses; what bears it is swept away in the end.
    ///
    /// # Panics
    /// When all are taken.
    pub fn ct(&self) -> CtId {
        let id = TestId::take();
        let ct = id.ct();
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        ct
    }

    /// `virtctl`, speaking to this node.
    pub fn virtctl(&self) -> Command {
        let mut command = Command::new(bin_dir().join("virtctl"));
        command.env("VES_SOCKET", self.layout().socket(Daemon::Coordinator));
        command.stdin(Stdio::null());
        command
    }

    /// Runs `virtctl` with words separated by spaces, to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn run(&self, words: &str) -> Output {
        self.virtctl().args(words.split_whitespace()).output().expect("virtctl starts")
    }

    /// The same where it must succeed; hands back what it printed.
    ///
    /// # Panics
    /// With what it said, when it fails.
    #[track_caller]
    pub fn ok(&self, words: &str) -> String {
        let out = self.run(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (said, wrong) = (text(&out.stdout), text(&out.stderr));
        assert!(out.status.success(), "virtctl {words}: {}\n{said}{wrong}", out.status);
        said
    }

    /// The same with `-o json`, read.
    ///
    /// # Panics
    /// As [`Self::ok`], or when it printed something else.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{words} -o json"))).expect("JSON")
    }

    /// With a root file system as a template.
    ///
    /// # Panics
    /// When that cannot be imported.
    #[must_use]
    #[track_caller]
    pub fn with_template(self, name: &str, rootfs: &Rootfs) -> Self {
        let archive = rootfs.tar(&self.dir().join(format!("{name}.tar.gz")));
        self.ok(&format!("template import {} --name {name}", archive.display()));
        self
    }

    /// Whether a line of the inventory is about this node or a container of it.
    pub fn owns(&self, kind: Kind, line: &str) -> bool {
        let mut ids = Vec::new();
        for id in self.ids.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            ids.push(id.ct());
        }
        let dir = self.dir().to_str().unwrap_or_default();
        let words: Vec<&str> =
            line.split(|c: char| !(c.is_ascii_alphanumeric() || "-.:".contains(c))).collect();
        let named = |word: String| words.contains(&word.as_str());
        match kind {
            // Monitors of containers, and what they start, do not say whose node they are of; calls
            // by people come and go, and other tests make them from the same programs.
            Kind::Process => {
                let from = || sweep::runs_from(line, self.stack.bin_dir());
                line.contains(dir) || (line.split_whitespace().nth(1) != Some("virtctl") && from())
            }
            Kind::Mount | Kind::Loop | Kind::File => line.contains(dir),
            Kind::Descriptors => true,
            Kind::Cgroup | Kind::Link | Kind::Route | Kind::Neighbour | Kind::Nft | Kind::Bpf => {
                ids.iter().any(|ct| {
                    named(format!("ct-{ct}"))
                        || named(format!("ves{ct}"))
                        || named(ipv4(*ct).to_string())
                        || named(ipv6(*ct).to_string())
                })
            }
        }
    }

    /// Takes back what the node changed for all containers of the machine, where there are no others.
    fn tear_down(&self) {
        let all = Inventory::take(self.layout());
        let elements = all.of(Kind::Nft).any(|line| {
            line.starts_with("table inet ves")
                && line.contains("elements")
                && !self.owns(Kind::Nft, line)
        });
        let other = stack::listener(&Layout::default().socket(Daemon::Network)).is_some();
        if elements || other {
            return;
        }
        let mut networkd = Command::new(bin_dir().join(Daemon::Network.program()));
        networkd.arg("--teardown").arg("--run-dir").arg(self.layout().run_dir());
        match networkd.output() {
            Ok(out) if out.status.success() => {}
            other => eprintln!("not torn down: {other:?}"),
        }
    }

    /// What the host has of this node.
    pub fn inventory(&self) -> Inventory {
        Inventory::take(self.layout()).only(|kind, line| self.owns(kind, line))
    }
}

/// An IPv4 address of documentation that only the test with this id uses.
pub fn ipv4(ct: CtId) -> Ipv4Addr {
    // 198.18.0.0/15 is set aside for benchmarks.
    Ipv4Addr::from(0xC612_0000_u32 | (ct.get() & 0xFFFF))
}

/// An IPv6 address of documentation that only the test with this id uses.
pub fn ipv6(ct: CtId) -> Ipv6Addr {
    Ipv6Addr::from((0x2001_0db8_0056_0001_u128 << 64) | u128::from(ct.get()))
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in Daemon::ALL {
                eprintln!("--- {}\n{}", service.program(), self.stack.tail(service));
            }
        }
        // All of this is best effort: the test has said what it has to say.
        let ids: Vec<CtId> = self
            .ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(TestId::ct)
            .collect();
        if self.stack.start_all().is_ok() {
            for ct in &ids {
                self.run(&format!("stop {ct} --fast"));
                self.run(&format!("destroy {ct}"));
            }
        }
        for service in Daemon::ALL.into_iter().rev() {
            if let Err(e) = self.stack.stop(service) {
                eprintln!("{e:#}");
            }
        }
        self.tear_down();
        let dir = self.dir().to_str().unwrap_or_default();
        let mine = |kind, line: &str| match kind {
            Kind::Descriptors => false,
            Kind::Process => line.contains(dir),
            _ => self.owns(kind, line),
        };
        match sweep::sweep(self.layout(), &mine) {
            Ok(swept) if swept.is_empty() => {}
            Ok(swept) => eprintln!("swept away: {}", swept.join(", ")),
            Err(e) => eprintln!("not swept away: {e:#}"),
        }
    }
}
