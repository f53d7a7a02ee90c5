//! What units give daemons holds where version 1 is mounted and where a unit has a mount namespace of
//! its own: the resources daemon with its one capability, a starter in a namespace apart.
//!
//! The namespace is as a service manager makes it: a slave of the node's, then shared again. Only the
//! directory of containers is shared with the node, so that no mount of other tests comes in.
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::{World, needs};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use ves_host::cgroup::{self, Controller, Hierarchies};
use ves_host::mount::{Change, Propagation};
use ves_kit::inventory::Kind;
use ves_kit::{
    MountGuard, Proc, Rootfs, TestId, TestLayout, TestNode, need, node, run, stack, wait_until,
};
use ves_lifecycle::error::Error;
use ves_lifecycle::init_plan::DEVICES;
use ves_lifecycle::plan::Goal;
use ves_proto::resources::resources_service_client::ResourcesServiceClient;
use ves_proto::{common, resources as pb};
use ves_types::CtId;
use ves_types::layout::{self, Daemon, Layout};

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

fn v1_devices() -> Result<(), need::Lack> {
    let there = Hierarchies::detect().is_ok_and(|h| h.v1_with(Controller::Devices).is_some());
    need::kernel("version 1's devices", there, "`mount -t cgroup -o devices` brings it")
}

/// Runs a daemon as a unit with one capability does, as a user that is not root.
fn as_unit(service: Daemon, layout: &Layout, capability: &str) -> Proc {
    let only = format!("-all,+{capability}");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    command.arg(format!("--bounding-set={only}")).arg(format!("--inh-caps={only}"));
    command.arg(format!("--ambient-caps={only}")).arg(node::bin_dir().join(service.program()));
    command.arg("--run-dir").arg(layout.run_dir()).arg("--state-dir").arg(layout.state_dir());
    command.env_clear().stdin(Stdio::null());
    let mut daemon = Proc::spawn(command);
    wait_until(PATIENCE, "the daemon listens", || {
        assert!(daemon.alive(), "it ended at once");
        stack::listener(&layout.socket(service)) == Some(daemon.id())
    });
    daemon
}

/// What this thread connects to meanwhile is told that it is this user, who has all its capabilities.
struct AsUser;

impl AsUser {
    fn new(uid: u32) -> Self {
        let held = rustix::thread::capabilities(None).expect("told");
        let user = rustix::fs::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(None, user, None).expect("this thread is root");
        rustix::thread::set_capabilities(None, held).expect("they are permitted");
        Self
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        rustix::thread::set_thread_res_uid(None, rustix::fs::Uid::ROOT, None).expect("it was");
    }
}

/// A container's groups, which go with it.
struct GroupsGuard(CtId);

impl GroupsGuard {
    fn dirs(&self) -> Vec<PathBuf> {
        Hierarchies::detect().expect("control groups").dirs(&layout::cgroup(self.0))
    }
}

impl Drop for GroupsGuard {
    fn drop(&mut self) {
        for dir in self.dirs() {
            cgroup::remove(&dir).ok();
        }
    }
}

#[test]
fn the_resources_daemon_needs_one_capability_whatever_is_mounted() {
    need!(need::root(), need::disposable(), need::program("setpriv", "util-linux"));
    let id = TestId::take();
    let groups = GroupsGuard(id.ct());
    // On this thread alone, so that it is this one that connects.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = |kit: &TestLayout| {
            let socket = kit.layout().socket(Daemon::Resources);
            ResourcesServiceClient::new(ves_daemon::client::channel(&socket))
        };
        // What the self-test of one with all of root's power proves.
        let kit = TestLayout::new();
        let program = node::bin_dir().join(Daemon::Resources.program());
        let root = Proc::daemon(&program, Daemon::Resources, kit.layout(), &[]);
        let ask = pb::GetCapabilitiesRequest {};
        let proven = client(&kit).get_capabilities(ask).await.expect("told").into_inner();
        drop(root);

        let kit = TestLayout::new();
        let daemon = as_unit(Daemon::Resources, kit.layout(), "dac_override");
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("it lives");
        for line in ["CapEff:\t0000000000000002", "CapBnd:\t0000000000000002", "Uid:\t65534\t"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let mut client = client(&kit);
        // The daemon's own account may have it change something, as the coordinator may.
        let own = AsUser::new(65534);
        let told = client.get_capabilities(ask).await.expect("told").into_inner();
        drop(own);
        assert_eq!(told, proven, "its self-test proves no less");

        let level = |n| common::UbcValue { barrier: n, limit: n };
        let ubc = [("numproc", 50), ("physpages", 1 << 14), ("swappages", 1 << 14)];
        let limits = |cpu_millicpus| common::Limits {
            ubc: ubc.map(|(name, n)| (name.to_owned(), level(n))).into(),
            cpu_millicpus: Some(cpu_millicpus),
            cpus: Some(1),
            cpu_units: Some(500),
            ..common::Limits::default()
        };
        let fence = |generation| Some(common::Fence { ct: id.ct().get(), generation, epoch: 1 });
        for (generation, cpu) in [(1, 500), (2, 250), (2, 250)] {
            let limits = limits(cpu);
            let ask = pb::EnsureLimitsRequest {
                fence: fence(generation),
                limits: Some(limits),
                dry_run: false,
                device: None,
            };
            let group = client.ensure_limits(ask).await.expect("limited").into_inner();
            let got = group.limits.expect("told");
            assert_eq!((got.cpu_millicpus, got.cpus), (Some(cpu), Some(1)));
            assert_eq!(group.rows.len(), 21);
        }
        assert!(groups.dirs().iter().all(|dir| dir.is_dir()));
        // It counts who is inside, whose owner it is not.
        let mut inside = Proc::spawn({
            let mut command = Command::new("sleep");
            command.arg("1000");
            command
        });
        let hierarchies = Hierarchies::detect().expect("control groups");
        for file in hierarchies.procs_files(&layout::cgroup(id.ct()), layout::CGROUP_DELEGATED) {
            cgroup::write(&file, &inside.id().to_string()).expect("moved");
        }
        let ask = pb::GetGroupRequest { ct: id.ct().get() };
        let group = client.get_group(ask).await.expect("told").into_inner();
        let held = |name| group.rows.iter().find(|row| row.resource == name).map(|row| row.held);
        assert_eq!(held("numproc"), Some(1), "{group:?}");
        assert!(held("numfile") > Some(0), "{group:?}");
        inside.kill();
        let ask = pb::RemoveLimitsRequest { fence: fence(3), dry_run: false };
        client.remove_limits(ask).await.expect("removed");
        assert!(!groups.dirs().iter().any(|dir| dir.exists()));
    });
}

/// What a container's group may open, as the kernel lists it.
fn devices(world: &World) -> (PathBuf, BTreeSet<String>) {
    let controlled = world.hierarchies.v1_with(Controller::Devices).expect("there is one");
    let group = controlled.mount.join(layout::cgroup(world.ct));
    let list = cgroup::read(&group.join("devices.list")).expect("readable");
    (group, list.lines().map(str::to_owned).collect())
}

#[test]
fn only_the_standard_devices_can_be_opened() {
    need!(v1_devices());
    if !needs() {
        return;
    }
    let standard: BTreeSet<_> = DEVICES.map(str::to_owned).into();
    let world = World::new(9480, |_| {});
    assert_eq!(devices(&world).1, ["a *:* rwm".to_owned()].into(), "as groups are made");
    let spec = || world.script("while :; do sleep 1; done");
    world.start(spec());
    let (group, list) = devices(&world);
    assert_eq!(list, standard);
    assert_eq!(world.sh("head -c 4 /dev/urandom | wc -c; echo x >/dev/null").trim(), "4");
    // Not for root of the node either.
    let join = "echo $$ >\"$0/cgroup.procs\" && exec 3</dev/null 4</dev/urandom || exit 9";
    for (device, status) in [("zero", 0), ("kmsg", 1)] {
        let script = format!("{join}; (exec 3</dev/{device}) 2>/dev/null || exit 1");
        let shell = Command::new("/bin/sh").args(["-c", &script, text(&group)]).status();
        assert_eq!(shell.expect("it runs").code(), Some(status), "/dev/{device}");
    }
    // A restart finds the rules there, or others that somebody added.
    for added in [None, Some("c 1:11 r")] {
        world.stop(0);
        if let Some(rule) = added {
            cgroup::write(&group.join("devices.allow"), rule).expect("added");
        }
        world.start(spec());
        assert_eq!(devices(&world).1, standard, "after {added:?}");
    }
}

#[test]
fn no_container_starts_whose_devices_cannot_be_filtered() {
    need!(v1_devices());
    if !needs() {
        return;
    }
    let world = World::new(9481, |_| {});
    // The kernel denies nothing to a group with groups below it.
    let group = devices(&world).0;
    let hindrance = group.join("below");
    fs::create_dir(&hindrance).expect("made");
    match world.ensure(Goal::Running, Some(world.script("sleep 1000"))) {
        Err(Error::Start { failure, .. }) => {
            assert_eq!(failure.step, "let the control group open 9 kinds of devices only");
            assert_eq!(failure.errno, rustix::io::Errno::INVAL.raw_os_error());
            assert!(failure.message.contains("devices.deny"), "{failure:?}");
        }
        other => panic!("no failed start: {other:?}"),
    }
    assert!(world.observe().monitor.is_none(), "nothing runs");
    fs::remove_dir(&hindrance).expect("removed");
    wait_until(PATIENCE, "the kernel takes leave of it", || {
        cgroup::write(&group.join("devices.deny"), "a").is_ok()
    });
    world.start(world.script("sleep 1000"));
}

#[test]
fn a_volume_that_somebody_shared_is_a_root_as_any_other() {
    if !needs() {
        return;
    }
    let world = World::new(9482, |_| {});
    let (volumes, name) = (world.volumes(), layout::volume(world.ct));
    let copy = volumes.clone_mount(&name).expect("copied");
    let shared = Change { propagation: Some(Propagation::Shared), ..Change::default() };
    ves_host::mount::change(&copy, shared, "the volume").expect("shared");
    volumes.unmount(&name).expect("unmounted");
    volumes.attach(&copy, &name).expect("mounted");
    world.start(world.script("while :; do sleep 1; done"));
    assert_eq!(world.sh("hostname").trim(), "web.example.org");
    let on_the_node = mounts(std::process::id(), world.ct);
    assert_eq!(on_the_node.len(), 1, "the pin of its network: {on_the_node:#?}");
    world.stop(0);
    assert_eq!(mounts(std::process::id(), world.ct), Vec::<String>::new());
}

/// A mount namespace as a service manager makes it for a unit, kept by a process that sleeps.
pub(super) fn namespace_of_a_unit() -> Proc {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c"]);
    command.arg("mount --make-rshared / && exec sleep 1000").stdin(Stdio::null());
    let holder = Proc::spawn(command);
    wait_until(PATIENCE, "the namespace is made", || {
        let name = fs::read_to_string(format!("/proc/{}/comm", holder.id()));
        name.is_ok_and(|name| name == "sleep\n")
    });
    holder
}

/// Shares a directory's mounts, as all of a node's are where systemd runs.
fn share(dir: &Path) -> MountGuard {
    let shared = MountGuard::mount(&["--bind", text(dir)], dir);
    run("mount", &["--make-shared", text(dir)]);
    shared
}

/// Starts the starter in a namespace as its unit does, with a descriptor of the node's where `node`
/// says so.
pub(super) fn starter(layout: &Layout, namespace: &Proc, node: bool) -> Proc {
    let address = SocketAddrUnix::new(layout.starter_socket()).expect("a short path");
    let listener: OwnedFd =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket");
    bind(&listener, &address).expect("bound");
    listen(&listener, 64).expect("it listens");
    let fds = if node { "LISTEN_FDS=2 4</proc/$0/ns/mnt" } else { "LISTEN_FDS=1" };
    let (fds, open) = fds.split_once(' ').unwrap_or((fds, ""));
    let script = format!(
        "exec 3<&0 0</dev/null {open}; export LISTEN_PID=$$ LISTEN_FDNAMES=ves-starter.socket:node-mnt \
         {fds}; exec \"$1\" starter"
    );
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", &namespace.id().to_string(), "sh", "-c", &script]);
    command.arg(std::process::id().to_string()).arg(node::bin_dir().join("ves-init"));
    Proc::spawn({
        command.stdin(listener);
        command
    })
}

/// The mounts of a process that are about a container.
fn mounts(process: u32, ct: CtId) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{process}/mountinfo")).expect("it lives");
    let about = format!("/ct/{ct}/");
    table.lines().filter(|line| line.contains(&about)).map(str::to_owned).collect()
}

#[test]
fn a_starter_in_a_namespace_of_its_own_makes_containers_that_leave_nothing() {
    need!(node::node(), need::program("nsenter", "util-linux"));
    let node = TestNode::start().with_template("busybox", &Rootfs::busybox());
    let cts = node.layout().cts_dir();
    fs::create_dir_all(&cts).expect("made");
    let _shared = share(&cts);
    let unit = namespace_of_a_unit();
    let starter = starter(node.layout(), &unit, true);
    let ct = node.ct();
    let loops = || node.inventory().of(Kind::Loop).map(str::to_owned).collect::<BTreeSet<_>>();
    let before = loops();
    let everywhere = || [std::process::id(), unit.id(), starter.id()].map(|p| mounts(p, ct));

    node.ok(&format!(
        "create {ct} --ostemplate busybox --hostname c{ct} --ipadd {} --diskspace 128M --ram 64M",
        node::ipv4(ct)
    ));
    for _ in 0..2 {
        node.ok(&format!("start {ct}"));
        assert_eq!(node.ok(&format!("exec {ct} hostname")).trim(), format!("c{ct}"));
        let links = node.ok(&format!("exec {ct} ip -4 -o addr"));
        assert!(links.contains(&node::ipv4(ct).to_string()), "its network is found: {links}");
        // The pin of its network, in the node's namespace; no more in the unit's.
        let [node_mounts, unit_mounts, _] = everywhere();
        assert_eq!(node_mounts.len(), 1, "{node_mounts:#?}");
        assert!(
            unit_mounts.len() <= 1,
            "what is in the container is nobody else's: {unit_mounts:#?}"
        );
        node.ok(&format!("stop {ct} --fast"));
    }
    node.ok(&format!("destroy {ct}"));
    for left in everywhere() {
        assert_eq!(left, Vec::<String>::new());
    }
    wait_until(PATIENCE, "the loop device is free", || loops() == before);
}

#[test]
fn a_unit_in_a_namespace_of_its_own_without_the_nodes_says_so() {
    need!(node::node(), need::program("nsenter", "util-linux"));
    let node = TestNode::start().with_template("busybox", &Rootfs::busybox());
    let cts = node.layout().cts_dir();
    fs::create_dir_all(&cts).expect("made");
    let _shared = share(node.layout().run_dir());
    let unit = namespace_of_a_unit();
    let _starter = starter(node.layout(), &unit, false);
    let ct = node.ct();
    node.ok(&format!("create {ct} --ostemplate busybox --diskspace 128M --ram 64M"));
    let out = node.run(&format!("start {ct}"));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("the node's mount namespace"), "{said}");
    assert!(said.contains("OpenFile="), "it says what helps: {said}");
    node.ok(&format!("destroy {ct}"));

    for service in [Daemon::Storage, Daemon::Lifecycle] {
        let kit = TestLayout::new();
        let _shared = share(kit.layout().run_dir());
        let unit = namespace_of_a_unit();
        let mut daemon = Command::new("nsenter");
        daemon.args(["--mount", "--target", &unit.id().to_string()]);
        daemon.arg(node::bin_dir().join(service.program()));
        daemon.arg("--run-dir").arg(kit.layout().run_dir());
        daemon.arg("--state-dir").arg(kit.layout().state_dir());
        daemon.env("NOTIFY_SOCKET", kit.dir().join("nobody")).stdin(Stdio::null());
        let out = daemon.output().expect("it starts");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("the node's mount namespace"), "{}: {said}", service.name());
    }
}
