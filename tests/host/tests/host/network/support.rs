//! A node and its containers for the network tests: each a network namespace of its own, so that
//! the machine's own links and routes are not touched.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use ves_daemon::{FenceStore, Shell};
use ves_host::cgroup::Hierarchies;
use ves_kit::{MountGuard, Proc, TestLayout};
use ves_network::config::Config;
use ves_network::host::Host;
use ves_network::kernel::KernelHost;
use ves_network::plan::{self, Desired};
use ves_network::service::{Interface, Service};
use ves_proto::Fault;
use ves_types::layout::{self, Layout};
use ves_types::{CtAddress, CtId, Epoch, Fence, Generation};

/// Addresses of the node itself.
pub(crate) const NODE_V4: &str = "203.0.113.1";
pub(crate) const NODE_V6: &str = "2001:db8:ffff::1";

/// How long what must happen may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn ct(n: u32) -> CtId {
    CtId::try_from(n).expect("a valid id")
}

pub(crate) fn address(text: &str) -> CtAddress {
    text.parse().expect("a valid address")
}

pub(crate) fn fence(ct: CtId, generation: u64) -> Fence {
    Fence { ct, generation: Generation(generation), epoch: Epoch(1) }
}

/// A node: the calling thread's network namespace and a layout.
pub(crate) struct Node {
    pub(crate) layout: TestLayout,
    pub(crate) service: Service,
    runtime: tokio::runtime::Runtime,
}

/// Runs `test` on a thread whose network namespace is a new one, as a node with two addresses.
pub(crate) fn on_a_new_node(test: impl FnOnce(&Node) + Send + 'static) {
    let name = std::thread::current().name().unwrap_or("node").to_owned();
    let node = std::thread::Builder::new().name(name).spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        // A new namespace begins with the IPv4 settings of the machine's own.
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "0").expect("it is ours");
        }
        ves_kit::run("ip", &["link", "set", "lo", "up"]);
        ves_kit::run("ip", &["addr", "add", NODE_V4, "dev", "lo"]);
        ves_kit::run("ip", &["addr", "add", NODE_V6, "dev", "lo", "nodad"]);
        // As a machine has a network card: where both ends of a link have the same number, each in
        // its namespace, the kernel may take a second to notice that the other end went up.
        ves_kit::run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
        ves_kit::run("ip", &["link", "set", "up0", "up"]);
        test(&Node::here());
    });
    if let Err(panic) = node.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn service(layout: &Layout) -> Service {
    service_on(Arc::new(KernelHost::new(layout.clone())), layout)
}

fn service_on(host: Arc<KernelHost>, layout: &Layout) -> Service {
    let fences = FenceStore::open(layout.run_dir().join("fence/network")).expect("fences");
    let shell = Shell::new(ves_network::KIND, fences, 16);
    Service::new(host, shell, &Config::default())
}

/// A service as the daemon begins it: it looks after the guard, and the node is ready.
pub(crate) fn watching_service(layout: &Layout) -> Service {
    let host = Arc::new(KernelHost::new(layout.clone()));
    let service = service_on(Arc::clone(&host), layout);
    ves_network::kernel::watch::watch(&host, &service).expect("it listens");
    service.prepare_node().expect("ready");
    service
}

impl Node {
    /// A node in the calling thread's namespace.
    pub(crate) fn here() -> Self {
        let layout = TestLayout::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { service: service(layout.layout()), layout, runtime }
    }
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
    /// The same where sockets are waited for.
    pub(crate) fn async_block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(future)
    }
    pub(crate) fn ensure(&self, ct: CtId, addresses: &[&str]) -> Result<Interface, Fault> {
        self.ensure_by(&self.service, ct, addresses)
    }
    /// By another service than the node's own.
    pub(crate) fn ensure_by(
        &self,
        service: &Service,
        ct: CtId,
        addresses: &[&str],
    ) -> Result<Interface, Fault> {
        let addresses = addresses.iter().map(|a| address(a)).collect();
        let done = self.block_on(service.ensure(fence(ct, 1), Desired { addresses }));
        done.map(|done| done.answer.expect("no dry run"))
    }
    pub(crate) fn get(&self, ct: CtId) -> Result<Interface, Fault> {
        self.block_on(self.service.get(ct))
    }
    /// What a planner that reads the kernel now would do.
    pub(crate) fn steps(&self, ct: CtId, addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<_> = addresses.iter().map(|a| address(a)).collect();
        let host = KernelHost::new(self.layout.layout().clone());
        let sources = host.sources().expect("read");
        let mut session = host.session(ct).expect("a session");
        let observed = session.observe(&addresses, &sources).expect("read");
        let steps = plan::plan(Some(&Desired { addresses }), &observed).expect("not refused");
        steps.iter().map(ToString::to_string).collect()
    }
    pub(crate) fn remove(&self, ct: CtId) -> Result<(), Fault> {
        self.block_on(self.service.remove(fence(ct, 1))).map(drop)
    }
    /// A started container: a process in a user and a network namespace of its own.
    pub(crate) fn container(&self, ct: CtId) -> Container {
        Container::start(self.layout.layout(), ct)
    }
}

/// A process in namespaces of its own, its network namespace pinned.
pub(crate) struct Container {
    pub(crate) ct: CtId,
    // In the order they go: the pin first, then what keeps the namespace alive.
    pin: Option<MountGuard>,
    netns: Option<File>,
    init: Proc,
}

impl Container {
    pub(crate) fn start(layout: &Layout, ct: CtId) -> Self {
        use std::io::Read;
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo; exec sleep 600"]);
        let mut init = Proc::spawn({
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            command
        });
        // One byte says that the namespaces are there.
        let stdout = init.child().stdout.as_mut().expect("it is piped");
        stdout.read_exact(&mut [0]).expect("the process is in its namespaces");
        let pin = layout.ct_netns(ct);
        std::fs::create_dir_all(layout.ct_dir(ct)).expect("a directory");
        File::create(&pin).expect("a file to pin on");
        let source = format!("/proc/{}/ns/net", init.id());
        let pin = MountGuard::mount(&["--bind", &source], &pin);
        let netns = File::open(pin.point()).expect("it was just pinned");
        Self { ct, pin: Some(pin), netns: Some(netns), init }
    }

    /// Runs `work` in the container's network namespace, with all capabilities there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns.as_ref().expect("the container lives").as_fd();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program of the host inside.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        self.inside(|| ves_kit::run(program, args))
    }

    /// Loses the pin of the namespace, in which everything goes on.
    pub(crate) fn lose_pin(&mut self) {
        self.pin = None;
    }

    /// Has the process in its container's control groups, which go with what is answered.
    pub(crate) fn join_groups(&self) -> Vec<Group> {
        let hierarchies = Hierarchies::detect().expect("there are control groups");
        let join = |dir: PathBuf| {
            let parent = dir.parent().expect("below the containers' group").to_owned();
            let made = [parent, dir].into_iter().filter(|dir| std::fs::create_dir(dir).is_ok());
            let group = Group(made.collect());
            // A group that knows no processor of its own takes nobody in, and one hierarchy is enough.
            let procs = group.0.last()?.join("cgroup.procs");
            std::fs::write(procs, self.init.id().to_string()).ok().map(|()| group)
        };
        hierarchies.dirs(&layout::cgroup(self.ct)).into_iter().filter_map(join).collect()
    }

    /// Unpins the namespace and ends its processes.
    pub(crate) fn die(&mut self) {
        self.pin = None;
        self.netns = None;
        self.init.kill();
    }

    /// Answers on UDP, and on one TCP connection after another, at a port.
    pub(crate) fn listen(&self, ip: &str, port: u16) -> (UdpSocket, TcpListener) {
        let at = SocketAddr::new(ip.parse().expect("an address"), port);
        self.inside(|| {
            let udp = UdpSocket::bind(at).expect("bind UDP inside");
            udp.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            (udp, TcpListener::bind(at).expect("bind TCP inside"))
        })
    }
}

/// Control groups that a test made, outermost first.
pub(crate) struct Group(Vec<PathBuf>);

impl Drop for Group {
    fn drop(&mut self) {
        for dir in self.0.iter().rev() {
            // What has just left it may still be counted.
            for _ in 0..100 {
                match std::fs::remove_dir(dir) {
                    Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Ok(()) | Err(_) => break,
                }
            }
        }
    }
}

/// One UDP packet each way between two sockets.
pub(crate) fn udp_round_trip(from: &UdpSocket, to: &UdpSocket) {
    let mut buffer = [0; 16];
    let target = to.local_addr().expect("it is bound");
    from.send_to(b"ping", target).expect("send");
    let (_, back) = to.recv_from(&mut buffer).expect("the packet arrives");
    to.send_to(b"pong", back).expect("answer");
    let (len, _) = from.recv_from(&mut buffer).expect("the answer arrives");
    assert_eq!(&buffer[..len], b"pong");
}

/// A UDP socket in the calling thread's namespace.
pub(crate) fn udp(ip: &str) -> UdpSocket {
    let ip: IpAddr = ip.parse().expect("an address");
    let udp = UdpSocket::bind((ip, 0)).expect("bind UDP");
    udp.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    udp
}

/// Sends from a source through `socket`'s usual path; whether it was delivered is the node's to say.
pub(crate) fn send_from(container: &Container, source: &str, target: &UdpSocket) {
    let target = target.local_addr().expect("it is bound");
    container.inside(|| {
        let socket = UdpSocket::bind((source, 0)).expect("bind");
        socket.send_to(source.as_bytes(), target).expect("send");
    });
}

pub(crate) fn received(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let (len, _) = socket.recv_from(&mut buffer).expect("something arrives");
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}
