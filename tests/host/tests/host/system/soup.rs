//! Many things at once on the real kernel: several clients, a few containers, daemons and monitors that are killed
//! meanwhile, and a model that knows what each answer and each container must be.
//!
//! All choices follow from one number, which is printed where something is wrong; which of what goes on at once
//! comes first is the machine's matter. `VES_SEED=N VES_SOUP_CALLS=N` let it be another, or longer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use ves_kit::inventory::Kind;
use ves_kit::{Inventory, Numbers, Rootfs, TestNode, need, node, wait_until};
use ves_types::CtId;
use ves_types::layout::{self, Daemon};

/// How many calls clients make, unless `VES_SOUP_CALLS` says otherwise.
const CALLS: usize = 240;
const CLIENTS: usize = 4;
const CONTAINERS: usize = 6;
/// Something is killed after at least so many calls, and at most twice as many.
const BETWEEN_KILLS: usize = 6;
/// How long anything may take to settle.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reasons that leave open whether it was done, while something was killed.
const OPEN: [&str; 3] = ["PEER_DOWN", "TIMEOUT", "STARTING"];
/// Further reasons where the container's monitor was killed meanwhile.
const KILLED: [&str; 5] = ["INIT_EXITED", "START_FAILED", "NOT_RUNNING", "RUNNING", "HOST_FAILED"];

/// What a container must be.
#[derive(Debug, Default, Clone)]
struct Model {
    exists: bool,
    running: bool,
    addresses: BTreeSet<Ipv4Addr>,
    /// None where it is not known which of two it is.
    numproc: Option<usize>,
    /// What is in its file `/mark`.
    mark: String,
    /// The mark at each snapshot.
    snapshots: BTreeMap<String, String>,
}

/// A container, its model while nobody works on it, and whether its monitor was killed since somebody looked.
struct Container {
    ct: CtId,
    model: Mutex<Model>,
    was_killed: AtomicBool,
}

/// What a command came to: nothing, or the reason.
type Answer = Result<Value, String>;

struct Soup {
    node: TestNode,
    containers: Vec<Container>,
    made: AtomicUsize,
    kills: AtomicUsize,
    /// Held while something is killed: what is wrong then is looked at again afterwards.
    killing: Mutex<()>,
    wrong: Mutex<Vec<String>>,
    begun: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Soup {
    fn wrong(&self, ct: CtId, what: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        lock(&self.wrong).push(format!("{at:.1} s: container {ct}: {what}"));
    }

    fn is_over(&self, calls: usize) -> bool {
        self.made.load(Ordering::Relaxed) >= calls || !lock(&self.wrong).is_empty()
    }

    /// Runs `virtctl` with these words; what it fails with is a reason.
    fn call(&self, words: &str) -> Answer {
        let out = self.node.run(&format!("-o json {words}"));
        let (text, said) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        if out.status.success() {
            return Ok(serde_json::from_str(&text).unwrap_or_default());
        }
        let json = said.find('{').and_then(|from| said.get(from..)).unwrap_or_default();
        let fault: Value = serde_json::from_str(json).unwrap_or_default();
        match fault["reason"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => Err(format!("{}: {said}", out.status)),
        }
    }

    /// The container's row once nobody works on it; `None` where it is not there.
    fn settled(&self, ct: CtId) -> Option<Value> {
        let mut row = None;
        wait_until(PATIENCE, &format!("nobody works on {ct}"), || {
            let Ok(list) = self.call("list -a") else { return false };
            let rows = list.as_array().cloned().unwrap_or_default();
            row = rows.into_iter().find(|row| row["ctid"].as_u64() == Some(ct.get().into()));
            row.as_ref().is_none_or(|row| row["operation"].as_str().unwrap_or("").is_empty())
        });
        row
    }

    /// Runs a line of shell inside; `None` where the container does not run.
    fn inside(&self, ct: CtId, line: &str) -> Option<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut command = self.node.virtctl();
            command.args(["exec", &ct.to_string(), "--", "/bin/sh", "-c", line]);
            let out = command.output().expect("virtctl starts");
            if out.status.success() {
                return Some(String::from_utf8_lossy(&out.stdout).trim().to_owned());
            }
            // A service that was killed cuts the session.
            let runs = self.settled(ct).is_some_and(|row| row["status"] == "running");
            if !runs || Instant::now() > end {
                return None;
            }
        }
    }

    /// Takes over what is open after a call that was cut: whatever it is, it is one of the two it can be.
    fn adopt(&self, ct: CtId, model: &mut Model, after: &Model) {
        let Some(row) = self.settled(ct) else {
            if model.exists && after.exists {
                self.wrong(ct, "it is lost");
            }
            *model = Model::default();
            return;
        };
        if !model.exists && !after.exists {
            self.wrong(ct, "it is there though it was destroyed");
        }
        let mut ids = BTreeMap::new();
        for id in self.snapshots(ct) {
            let mark = model.snapshots.get(&id).or_else(|| after.snapshots.get(&id));
            ids.insert(id, mark.unwrap_or(&model.mark).clone());
        }
        let addresses: BTreeSet<Ipv4Addr> = parse_addresses(&row);
        if addresses != model.addresses && addresses != after.addresses {
            self.wrong(ct, &format!("it has {addresses:?}, neither of {model:?} and {after:?}"));
        }
        let running = row["status"] == "running";
        let open = running == model.running || running == after.running;
        if !open
            && !self.containers.iter().any(|c| c.ct == ct && c.was_killed.load(Ordering::SeqCst))
        {
            self.wrong(ct, &format!("it is {}, neither of {model:?} and {after:?}", row["status"]));
        }
        let numproc = (model.numproc == after.numproc).then_some(model.numproc).flatten();
        let mark = if model.mark == after.mark { Some(model.mark.clone()) } else { None };
        *model = Model {
            exists: true,
            running,
            addresses,
            numproc,
            mark: mark.unwrap_or_default(),
            snapshots: ids,
        };
    }

    fn snapshots(&self, ct: CtId) -> Vec<String> {
        let mut list = Value::Null;
        wait_until(PATIENCE, "snapshots are listed", || {
            self.call(&format!("snapshot-list {ct}")).map(|all| list = all).is_ok()
        });
        let all = list.as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|row| row["id"].as_str()).map(str::to_owned).collect()
    }

    /// One call of a client on a container that nobody else works on.
    fn step(&self, which: &Container, model: &mut Model, numbers: &mut Numbers) {
        let ct = which.ct;
        if which.was_killed.swap(false, Ordering::SeqCst) && model.exists {
            let _killing = lock(&self.killing);
            model.running = self.settled(ct).is_some_and(|row| row["status"] == "running");
        }
        // Of the range that is set aside for benchmarks, and no other test's.
        let address =
            |k: u8| Ipv4Addr::from(0xC612_0000 | ((ct.get() & 0xFFF) << 4) | u32::from(k));
        let mut after = model.clone();
        let mut refusals: &[&str] = &[];
        let words = match numbers.below(20) {
            0..=3 if !model.exists => {
                let first = address(0);
                after = Model {
                    exists: true,
                    addresses: [first].into(),
                    numproc: Some(60),
                    ..Model::default()
                };
                format!(
                    "create {ct} --ostemplate soup --diskspace 128M --hostname h{ct} --ipadd {first} \
                     --numproc 60 --ram 32M"
                )
            }
            0..=4 => {
                after.running = model.exists;
                refusals = if model.running { &["RUNNING"] } else { &[] };
                format!("start {ct}")
            }
            5 | 6 => {
                after.running = false;
                refusals = if model.running { &[] } else { &["NOT_RUNNING"] };
                format!("stop {ct} --fast")
            }
            7 => {
                after.running = model.exists;
                format!("restart {ct} --fast")
            }
            8 => {
                if !model.running {
                    after = Model::default();
                }
                refusals = if model.running { &["RUNNING"] } else { &[] };
                format!("destroy {ct}")
            }
            9 | 10 if model.exists => {
                let numproc = 50 + numbers.below(200);
                after.numproc = Some(numproc);
                format!("set {ct} --numproc {numproc} --save")
            }
            11 | 12 if model.exists => {
                let more = address(1 + u8::try_from(numbers.below(6)).expect("small"));
                after.addresses.insert(more);
                format!("set {ct} --ipadd {more} --save")
            }
            13 if model.exists => {
                let all: Vec<_> = model.addresses.iter().copied().collect();
                let Some(less) = all.get(numbers.below(all.len())) else { return };
                after.addresses.remove(less);
                format!("set {ct} --ipdel {less} --save")
            }
            14 if model.snapshots.len() < 3 && model.exists => format!("snapshot {ct} --name s"),
            15 | 16 if !model.snapshots.is_empty() => {
                let all: Vec<_> = model.snapshots.iter().collect();
                let Some((id, mark)) = all.get(numbers.below(all.len())) else { return };
                refusals = if model.running { &["RUNNING"] } else { &[] };
                if !model.running {
                    after.mark = (*mark).clone();
                }
                format!("snapshot-switch {ct} --id {id}")
            }
            17 if !model.snapshots.is_empty() => {
                let Some(id) = model.snapshots.keys().next().cloned() else { return };
                after.snapshots.remove(&id);
                format!("snapshot-delete {ct} --id {id}")
            }
            18 if model.running => return self.mark(which, model, numbers),
            _ if model.exists => return self.check(which, model),
            _ => return,
        };
        let answer = self.call(&words);
        let was_killed = which.was_killed.load(Ordering::SeqCst);
        match answer {
            Ok(_) if !model.exists && !after.exists => {
                self.wrong(ct, &format!("{words}: of nothing"))
            }
            Ok(_) if refusals.contains(&"RUNNING") && !was_killed => {
                self.wrong(ct, &format!("{words}: while it runs"));
            }
            Ok(answer) => {
                if let Some(id) = answer["snapshot"].as_str()
                    && words.starts_with("snapshot ")
                {
                    after.snapshots.insert(id.to_owned(), model.mark.clone());
                }
                match words.split(' ').next() {
                    _ if !was_killed => {}
                    Some("destroy") => after = Model::default(),
                    Some("snapshot-switch") => after.mark = String::new(),
                    _ => {}
                }
                *model = after;
            }
            Err(reason) if !model.exists && reason == "CONTAINER_UNKNOWN" && !after.exists => {}
            Err(reason) if refusals.contains(&&*reason) => {}
            Err(reason) if OPEN.contains(&&*reason) => self.adopt(ct, model, &after),
            // Work that was cut before, or that somebody had to repair, goes on.
            Err(reason) if reason == "BUSY" => self.adopt(ct, model, &after),
            Err(reason) if was_killed && KILLED.contains(&&*reason) => {
                self.adopt(ct, model, &after);
            }
            Err(reason) => self.wrong(ct, &format!("{words}: {reason}; by the model {model:?}")),
        }
    }

    /// Writes into a file inside what must be there from then on.
    fn mark(&self, which: &Container, model: &mut Model, numbers: &mut Numbers) {
        let mark = format!("m{}", numbers.next_number());
        let line = format!("echo {mark} >/mark.new && mv /mark.new /mark && sync && cat /mark");
        match self.inside(which.ct, &line) {
            Some(read) if read == mark => model.mark = mark,
            Some(read) => self.wrong(which.ct, &format!("{mark} was written and {read} read")),
            None => self.was_cut(which, model, "a line of shell"),
        }
    }

    /// A container that should run does not: right only where it was killed, and then it is not known what of the
    /// last mark was written.
    fn was_cut(&self, which: &Container, model: &mut Model, what: &str) {
        let _killing = lock(&self.killing);
        if !which.was_killed.swap(false, Ordering::SeqCst) {
            self.wrong(which.ct, &format!("{what} could not be done; by the model {model:?}"));
        }
        model.running = self.settled(which.ct).is_some_and(|row| row["status"] == "running");
        model.mark = String::new();
    }

    /// Compares a container with its model.
    fn check(&self, which: &Container, model: &mut Model) {
        let ct = which.ct;
        let row = self.settled(ct);
        let Some(row) = row else {
            if model.exists {
                self.wrong(ct, "it is lost");
            }
            return;
        };
        if !model.exists {
            return self.wrong(ct, "it is there though it was destroyed");
        }
        let addresses = parse_addresses(&row);
        if addresses != model.addresses {
            self.wrong(ct, &format!("it has {addresses:?} and should {:?}", model.addresses));
        }
        let snapshots: BTreeSet<_> = self.snapshots(ct).into_iter().collect();
        if !snapshots.iter().eq(model.snapshots.keys()) {
            self.wrong(ct, &format!("it has snapshots {snapshots:?}; by the model {model:?}"));
        }
        if (row["status"] == "running") != model.running {
            let _killing = lock(&self.killing);
            if !which.was_killed.swap(false, Ordering::SeqCst) {
                self.wrong(ct, &format!("it is {}; by the model {model:?}", row["status"]));
            }
            model.running = self.settled(ct).is_some_and(|row| row["status"] == "running");
        }
        if !model.running {
            return;
        }
        let Some(said) = self.inside(ct, "hostname; cat /mark 2>/dev/null || echo") else {
            return self.was_cut(which, model, "a look inside");
        };
        let (name, mark) = said.split_once('\n').unwrap_or((&said, ""));
        if name != format!("h{ct}") {
            self.wrong(ct, &format!("it is called {name}"));
        }
        // Where it is not known what was written last, this is it now.
        match model.mark.is_empty() {
            true => model.mark = mark.trim().to_owned(),
            false if mark.trim() == model.mark => {}
            false => self.wrong(ct, &format!("its mark is {mark:?}; by the model {model:?}")),
        }
        let outside = (routes(ct), limit(ct));
        if which.was_killed.load(Ordering::SeqCst) {
            return;
        }
        if outside.0 != model.addresses {
            self.wrong(ct, &format!("routes {:?}; by the model {model:?}", outside.0));
        }
        if let (Some(want), Some(have)) = (model.numproc, outside.1)
            && want != have
        {
            self.wrong(ct, &format!("pids.max is {have} and should be {want}"));
        }
    }

    /// A client: calls until there were enough.
    fn client(&self, seed: u64, calls: usize) {
        let mut numbers = Numbers(seed);
        while !self.is_over(calls) {
            let which = &self.containers[numbers.below(self.containers.len())];
            match which.model.try_lock() {
                Ok(mut model) => {
                    self.made.fetch_add(1, Ordering::Relaxed);
                    self.step(which, &mut model, &mut numbers);
                }
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                Err(TryLockError::Poisoned(_)) => return,
            }
        }
    }

    /// Kills a daemon or a container's monitor now and then.
    fn killer(&self, seed: u64, calls: usize) {
        let mut numbers = Numbers(seed);
        let mut next = BETWEEN_KILLS;
        while !self.is_over(calls) {
            if self.made.load(Ordering::Relaxed) < next {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            next += BETWEEN_KILLS + numbers.below(BETWEEN_KILLS);
            self.kills.fetch_add(1, Ordering::Relaxed);
            match Daemon::ALL.get(numbers.below(Daemon::ALL.len() + 2)) {
                Some(service) => {
                    let stack = self.node.stack();
                    let killed = match numbers.below(3) {
                        0 => stack.stop(*service),
                        _ => stack.kill(*service),
                    };
                    killed.expect("it ended");
                    std::thread::sleep(Duration::from_millis([0, 50, 400][numbers.below(3)]));
                    stack.start(*service).expect("started again");
                }
                None => self.kill_monitor(&self.containers[numbers.below(self.containers.len())]),
            }
        }
    }

    fn kill_monitor(&self, which: &Container) {
        let _killing = lock(&self.killing);
        let Ok(list) = self.call("list -a") else { return };
        let rows = list.as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["ctid"].as_u64() == Some(which.ct.get().into()));
        let init = row.and_then(|row| row["init_pid"].as_u64());
        let parent = init.and_then(|init| {
            let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).ok()?;
            let of: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            let name = std::fs::read_to_string(format!("/proc/{of}/comm")).ok()?;
            (name.trim() == "ves-monitor").then(|| Pid::from_raw(of)).flatten()
        });
        let Some(monitor) = parent else { return };
        which.was_killed.store(true, Ordering::SeqCst);
        // It may have ended in this moment, which is the same.
        kill_process(monitor, Signal::KILL).ok();
        wait_until(PATIENCE, "its end is noticed", || {
            let list = self.call("list -a").unwrap_or_default();
            let rows = list.as_array().cloned().unwrap_or_default();
            !rows.is_empty() && !rows.iter().any(|row| row["init_pid"].as_u64() == init)
        });
    }
}

fn parse_addresses(row: &Value) -> BTreeSet<Ipv4Addr> {
    let all = row["ip"].as_array().cloned().unwrap_or_default();
    let text = all.iter().filter_map(Value::as_str);
    text.filter_map(|address| address.split('/').next()?.parse().ok()).collect()
}

/// What the node routes to a container.
fn routes(ct: CtId) -> BTreeSet<Ipv4Addr> {
    let mut ip = Command::new("ip");
    ip.args(["-4", "route", "show", "dev", &layout::host_link(ct)]).stderr(Stdio::null());
    let out = ip.output().expect("it starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// How many processes the kernel lets a container have.
fn limit(ct: CtId) -> Option<usize> {
    let group = layout::cgroup(ct);
    let files = ["/sys/fs/cgroup/pids/{}/pids.max", "/sys/fs/cgroup/{}/pids.max"];
    let read = |file: &str| std::fs::read_to_string(file.replace("{}", &group)).ok();
    files.into_iter().find_map(read)?.trim().parse().ok()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_is_killed_under_many_clients_every_answer_is_true() {
    need!(node::node());
    let node = TestNode::start().with_template("soup", &Rootfs::busybox());
    let calls = number("VES_SOUP_CALLS").and_then(|n| usize::try_from(n).ok()).unwrap_or(CALLS);
    let seed = number("VES_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    println!("VES_SEED={seed} VES_SOUP_CALLS={calls}");
    let mut containers = Vec::new();
    for _ in 0..CONTAINERS {
        let (model, was_killed) = (Mutex::default(), AtomicBool::new(false));
        containers.push(Container { ct: node.ct(), model, was_killed });
    }
    let before =
        Inventory::take(node.layout()).only(|kind, line| is_of_containers(&node, kind, line));
    let soup = Soup {
        node,
        containers,
        made: AtomicUsize::new(0),
        kills: AtomicUsize::new(0),
        killing: Mutex::default(),
        wrong: Mutex::default(),
        begun: Instant::now(),
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS as u64 {
            let soup = &soup;
            scope.spawn(move || soup.client(seed ^ ((client + 1) << 32), calls));
        }
        scope.spawn(|| soup.killer(seed, calls));
    });
    soup.node.stack().start_all().expect("five daemons");
    for which in &soup.containers {
        let mut model = lock(&which.model);
        soup.check(which, &mut model);
    }
    let wrong = lock(&soup.wrong).join("\n");
    assert!(wrong.is_empty(), "VES_SEED={seed} VES_SOUP_CALLS={calls}:\n{wrong}");

    for which in &soup.containers {
        let ct = which.ct;
        if lock(&which.model).exists {
            soup.call(&format!("stop {ct} --fast")).ok();
            soup.node.ok(&format!("destroy {ct}"));
        }
    }
    let (made, kills) = (soup.made.load(Ordering::Relaxed), soup.kills.load(Ordering::Relaxed));
    println!("{made} calls, {kills} kills in {:.1?}", soup.begun.elapsed());
    assert!(kills >= calls / (3 * BETWEEN_KILLS), "{kills} kills are too few to tell anything");
    before.wait_clean_of(soup.node.layout(), PATIENCE, |kind, line| {
        is_of_containers(&soup.node, kind, line)
    });
}

/// What containers have of the node, and daemons that were killed have not.
fn is_of_containers(node: &TestNode, kind: Kind, line: &str) -> bool {
    matches!(kind, Kind::Mount | Kind::Loop | Kind::Cgroup | Kind::Link | Kind::Route)
        && node.owns(kind, line)
}
