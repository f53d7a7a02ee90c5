//! What the public API answers, in a form of our own that stays when the API grows.
//!
//! A field of the API that is not here yet is not looked at; one that is added here is as in no
//! store from before. Fields as they are by default are left out of the text.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use ves_proto::{api, common};

use super::world::Ct;
use crate::Sim;
use crate::words as pb;

fn usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! answer {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[expect(missing_docs, reason = "fields are those of the API")]
        pub struct $name {
            $(#[serde(skip_serializing_if = "usual")] pub $field: $type,)*
        }
    };
}

answer!(
    /// [`common::Limits`], with barrier and limit of each parameter.
    Limits {
        ubc: BTreeMap<String, (u64, u64)>,
        cpu_millicpus: Option<u32>,
        cpus: Option<u32>,
        cpu_units: Option<u32>,
    }
);

answer!(
    /// [`pb::ContainerSpec`].
    Spec {
        name: String,
        hostname: String,
        template: String,
        addresses: Vec<String>,
        nameservers: Vec<String>,
        search_domains: Vec<String>,
        disk_bytes: u64,
        disk_inodes: Option<u64>,
        limits: Limits,
        onboot: bool,
        boot_order: Option<i32>,
        disabled: bool,
        description: String,
        init: Vec<String>,
    }
);

answer!(
    /// [`pb::Container`].
    Container {
        id: u32,
        spec: Spec,
        state: String,
        generation: u64,
        node: String,
        created_unix: i64,
        started_unix_ms: Option<i64>,
        numproc: Option<u64>,
        problem: String,
        operation: String,
        init_pid: Option<u32>,
        disk_used_bytes: Option<u64>,
        running_spec: Option<Spec>,
    }
);

answer!(
    /// `Fault` of `pb`.
    Fault {
        code: i32,
        reason: String,
        message: String,
        facts: BTreeMap<String, String>,
    }
);

answer!(
    /// [`pb::Operation`] without its progress, which is not kept.
    Operation {
        id: String,
        kind: String,
        ct: u32,
        state: String,
        steps: Vec<String>,
        fault: Option<Fault>,
        started_unix_ms: i64,
        ended_unix_ms: i64,
        principal: String,
        snapshot: String,
    }
);

answer!(
    /// What is stored, as it is shown.
    Answers {
        containers: Vec<Container>,
        operations: Vec<Operation>,
    }
);

answer!(
    /// What an operation came to that was unfinished, or that a start of the coordinator begins.
    End {
        kind: String,
        ct: u32,
        principal: String,
        state: String,
        reason: String,
        facts: BTreeMap<String, String>,
        snapshot: String,
    }
);

answer!(
    /// What there is of a container in the kernel.
    Real {
        size: Option<u64>,
        mounted: bool,
        slot: u32,
        contents: u64,
        reverted: String,
        limits: Option<Limits>,
        link: Option<BTreeSet<String>>,
        guard: bool,
        phase: i32,
        end: i32,
        starts: u64,
        incarnation: u64,
        hostname: String,
        init: Vec<String>,
        nameservers: Vec<String>,
        search_domains: Vec<String>,
        max_ptys: Option<u32>,
        shm_bytes: Option<u64>,
    }
);

answer!(
    /// What a coordinator that goes on with what is stored leads to. A spec that is as it was is left
    /// out.
    Outcome {
        containers: Vec<Container>,
        finished: BTreeMap<String, End>,
        begun: Vec<End>,
        snapshots: BTreeMap<u32, Vec<(String, String)>>,
        asked: BTreeMap<u32, Vec<String>>,
        real: BTreeMap<u32, Real>,
    }
);

/// `STOPPED` of `STATE_STOPPED`.
fn short(name: &str) -> String {
    name.trim_start_matches("STATE_").to_owned()
}

impl From<common::Limits> for Limits {
    fn from(l: common::Limits) -> Self {
        let ubc = l.ubc.into_iter().map(|(name, v)| (name, (v.barrier, v.limit))).collect();
        Self { ubc, cpu_millicpus: l.cpu_millicpus, cpus: l.cpus, cpu_units: l.cpu_units }
    }
}

impl From<pb::ContainerSpec> for Spec {
    fn from(s: pb::ContainerSpec) -> Self {
        Self {
            name: s.name,
            hostname: s.hostname,
            template: s.template,
            addresses: s.addresses,
            nameservers: s.nameservers,
            search_domains: s.search_domains,
            disk_bytes: s.disk_bytes,
            disk_inodes: s.disk_inodes,
            limits: s.limits.unwrap_or_default().into(),
            onboot: s.onboot,
            boot_order: s.boot_order,
            disabled: s.disabled,
            description: s.description,
            init: s.init,
        }
    }
}

impl From<pb::Container> for Container {
    fn from(c: pb::Container) -> Self {
        Self {
            id: c.id,
            state: short(c.state().as_str_name()),
            spec: c.spec.unwrap_or_default().into(),
            generation: c.generation,
            node: c.node,
            created_unix: c.created_unix,
            started_unix_ms: c.started_unix_ms,
            numproc: c.numproc,
            problem: c.problem,
            operation: c.operation,
            init_pid: c.init_pid,
            disk_used_bytes: c.disk_used_bytes,
            running_spec: c.running_spec.map(Spec::from),
        }
    }
}

impl From<pb::Operation> for Operation {
    fn from(op: pb::Operation) -> Self {
        let fault = |f: ves_proto::Fault| Fault {
            code: f.code().into(),
            reason: f.reason_name().to_owned(),
            message: f.message,
            facts: f.facts,
        };
        // Earlier releases did not show that somebody asked for an end.
        let state = match op.state() {
            pb::OperationState::Cancelling => pb::OperationState::Running,
            state => state,
        };
        Self {
            state: short(state.as_str_name()),
            id: op.id,
            kind: op.kind,
            ct: op.ct,
            steps: op.steps,
            fault: op.fault.map(fault),
            started_unix_ms: op.started_unix_ms,
            ended_unix_ms: op.ended_unix_ms,
            principal: op.principal,
            snapshot: op.snapshot,
        }
    }
}

impl Operation {
    /// Whether it is not at its end.
    pub fn runs(&self) -> bool {
        self.state == short(pb::OperationState::Running.as_str_name())
    }

    fn end(self) -> End {
        let fault = self.fault.unwrap_or_default();
        End {
            kind: self.kind,
            ct: self.ct,
            principal: self.principal,
            state: self.state,
            reason: fault.reason,
            facts: fault.facts,
            snapshot: self.snapshot,
        }
    }
}

impl From<Ct> for Real {
    fn from(ct: Ct) -> Self {
        let process = ct.process;
        let mut real = Self {
            limits: ct.group.map(Limits::from),
            link: ct.link,
            guard: ct.guard,
            phase: process.phase,
            end: process.end,
            starts: process.starts,
            incarnation: process.incarnation,
            hostname: process.spec.hostname,
            init: process.spec.init,
            nameservers: process.spec.nameservers,
            search_domains: process.spec.search_domains,
            max_ptys: process.spec.max_ptys,
            shm_bytes: process.spec.shm_bytes,
            ..Self::default()
        };
        if let Some(volume) = ct.volume {
            real.size = Some(volume.size);
            real.mounted = volume.mounted;
            real.slot = volume.slot;
            real.contents = volume.contents;
            real.reverted = volume.reverted.map(|r| r.snapshot).unwrap_or_default();
        }
        real
    }
}

/// All operations, oldest first.
pub fn operations(sim: &Sim) -> Vec<Operation> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let filter = String::new();
        let request = api::ListOperationsRequest { page_size: 0, page_token, filter };
        let page = sim.block(sim.operations().list_operations(request)).expect("a page");
        let page = page.into_inner();
        let page_operations = page.operations.into_iter().map(pb::Operation::from);
        all.extend(page_operations.map(Operation::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            all.reverse();
            return all;
        }
    }
}

/// What is stored; without a look at the services.
pub fn stored(sim: &Sim) -> Answers {
    let containers = sim.first_told().into_iter().map(Container::from).collect();
    Answers { containers, operations: operations(sim) }
}

/// What the coordinator has led to so far; `kept`: what was stored when it began.
pub fn outcome(sim: &Sim, kept: &Answers) -> Outcome {
    let request = api::ListContainersRequest::default();
    let list = sim.block(sim.containers().list_containers(request)).expect("listed").into_inner();
    let mut containers: Vec<_> =
        list.containers.into_iter().map(|c| Container::from(pb::Container::from(c))).collect();
    for now in &mut containers {
        // How often something was tried is nobody's business.
        now.generation = 0;
        // Said once is enough.
        if kept.containers.iter().any(|old| old.id == now.id && old.spec == now.spec) {
            now.spec = Spec::default();
        }
    }
    let (mut finished, mut begun) = (BTreeMap::new(), Vec::new());
    for op in operations(sim) {
        match kept.operations.iter().find(|old| old.id == op.id) {
            None => begun.push(op.end()),
            Some(old) if old.runs() => {
                finished.insert(op.id.clone(), op.end());
            }
            Some(old) => assert_eq!(*old, op, "it had ended"),
        }
    }
    begun.sort_by_key(|end| (end.ct, end.kind.clone()));
    let snapshots = containers.iter().map(|c| (c.id, snapshots(sim, c.id)));
    let snapshots = snapshots.filter(|(_, all)| !all.is_empty()).collect();
    let mut asked: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in &sim.script().log() {
        if let Some((rpc, ct)) = line.split_once(' ') {
            asked.entry(ct.parse().unwrap_or(0)).or_default().push(rpc.to_owned());
        }
    }
    let mut ids: BTreeSet<u32> = asked.keys().copied().collect();
    ids.extend(kept.containers.iter().chain(&containers).map(|c| c.id));
    let real = ids.iter().map(|ct| (*ct, Real::from(Ct::of(sim.kernel(), *ct)))).collect();
    Outcome { containers, finished, begun, snapshots, asked, real }
}

impl Outcome {
    /// The same whatever order services were asked in that work at once: all between two changes of
    /// the container's processes.
    #[must_use]
    pub fn without_order(mut self) -> Self {
        let process = |rpc: &String| rpc.ends_with("Process") || rpc.ends_with("Container");
        for asked in self.asked.values_mut() {
            asked.chunk_by_mut(|a, b| !process(a) && !process(b)).for_each(<[String]>::sort);
        }
        self
    }

    /// The same without what a node in memory made up, and what one of an earlier release showed that none
    /// shows now: numbers of processes and of runs, times, the id slot of what is not mounted, a guard
    /// without addresses, how those ended before that run, and with what those ran that do not.
    #[must_use]
    pub fn without_inventions(mut self) -> Self {
        for ct in &mut self.containers {
            ct.init_pid = ct.init_pid.map(|_| 1);
            ct.started_unix_ms = ct.started_unix_ms.map(|_| 1);
            ct.disk_used_bytes = ct.disk_used_bytes.map(|_| 1);
        }
        for real in self.real.values_mut() {
            real.incarnation = 0;
            // 1 is told, 0 was that nobody had ever asked.
            real.phase = real.phase.max(1);
            if real.phase > 1 {
                real.end = 0;
            } else {
                // What nobody runs with any more.
                real.hostname.clear();
                real.init.clear();
                real.nameservers.clear();
                real.search_domains.clear();
                (real.max_ptys, real.shm_bytes) = (None, None);
            }
            if !real.mounted {
                real.slot = 0;
            }
            real.guard &= real.link.as_ref().is_some_and(|l| !l.is_empty());
        }
        let nothing = Real { phase: 1, ..Real::default() };
        self.real.retain(|_, real| *real != nothing);
        self
    }

    /// Whether somebody still works.
    pub fn works(&self) -> bool {
        let running = short(pb::OperationState::Running.as_str_name());
        self.finished.values().chain(&self.begun).any(|end| end.state == running)
    }
}

fn snapshots(sim: &Sim, ct: u32) -> Vec<(String, String)> {
    // One that went meanwhile has none.
    let list = sim.snapshots_of(&ct.to_string()).unwrap_or_default();
    list.into_iter().map(|s| (pb::last(&s.name), s.title)).collect()
}
