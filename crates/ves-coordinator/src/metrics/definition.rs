//! The metrics there are: names, units, what they say. Pure.
//!
//! Names of OpenTelemetry's conventions where there is one, else `ves.`. Labels hold no unique id, operation,
//! address or path: what they hold has a bound ([`super::series`]).

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something that only grows.
    Total,
    /// Time that only grows, in microseconds here and told in seconds.
    Seconds,
    /// Something that goes up and down.
    Level,
    /// Time since, in microseconds here and told in seconds.
    Age,
}

macro_rules! metrics {
    ($($variant:ident: $kind:ident, $name:literal, $unit:literal, $description:literal;)*) => {
        /// A metric.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Metric {
            $(#[doc = $description] $variant,)*
        }

        impl Metric {
            /// All there are.
            pub(super) const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            pub(super) const fn unit(self) -> &'static str {
                match self { $(Self::$variant => $unit,)* }
            }
            pub(super) const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }
            pub(super) const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }
    };
}

metrics! {
    CpuTime: Seconds, "container.cpu.time", "s", "processor time used";
    CpuThrottled: Seconds, "ves.container.cpu.throttled", "s",
        "time for which it was held back by its limit of processor time";
    MemoryUsage: Level, "container.memory.usage", "By", "memory in use, with the page cache";
    MemoryWorkingSet: Level, "container.memory.working_set", "By",
        "memory in use, without the page cache that was not used lately";
    OomKills: Total, "ves.container.oom.kills", "{process}",
        "processes killed because memory ran out, since the container started";
    DiskIo: Total, "container.disk.io", "By", "bytes read from and written to its volume";
    DiskOperations: Total, "ves.container.disk.operations", "{operation}",
        "reads and writes of its volume";
    NetworkIo: Total, "container.network.io", "By", "bytes received and transmitted";
    NetworkPackets: Total, "ves.container.network.packets", "{packet}",
        "packets received and transmitted";
    NetworkDropped: Total, "ves.container.network.dropped", "{packet}",
        "packets that were dropped, once there are any";
    FilesystemUsage: Level, "container.filesystem.usage", "By", "bytes its files take";
    FilesystemCapacity: Level, "container.filesystem.capacity", "By", "the hard size of its volume";
    InodesUsage: Level, "ves.container.inodes.usage", "{inode}", "inodes in use";
    InodesLimit: Level, "ves.container.inodes.limit", "{inode}", "the hard number of inodes";
    FilesystemErrors: Level, "ves.container.filesystem.errors", "{error}",
        "errors the kernel has met in its file system, at least one where it is damaged";
    Pressure: Seconds, "ves.container.pressure", "s",
        "time for which at least one task waited for what is short";
    Uptime: Age, "container.uptime", "s", "time since its init started";
    UbcHeld: Level, "ves.ubc.held", "",
        "how much of a parameter is in use, where its limit is kept and finite";
    UbcLimit: Level, "ves.ubc.limit", "", "the limit of a parameter that is kept and finite";
    UbcFailures: Total, "ves.ubc.failures", "{failure}",
        "how often a parameter's limit refused something, once it did";
    OperationQueued: Level, "ves.operation.queued", "{operation}",
        "operations that wait for their turn";
    PoolSize: Level, "ves.pool.size", "By", "the most bytes the pool may come to have";
    PoolUsage: Level, "ves.pool.usage", "By", "bytes in use, with the file system's own";
    PoolFree: Level, "ves.pool.free", "By", "bytes free, with those by which it may still grow";
    PoolPromised: Level, "ves.pool.promised", "By",
        "hard sizes of volumes, snapshots and templates";
    PoolPromisable: Level, "ves.pool.promisable", "By", "bytes that can still be promised";
    PoolAlarms: Level, "ves.pool.alarms", "{alarm}", "what an operator should look at";
    NodeContainers: Level, "ves.node.containers", "{container}", "containers, by what they are";
    NodeIdSlotsUsage: Level, "ves.node.id_slots.usage", "{range}",
        "ranges of user ids that containers have";
    NodeIdSlotsLimit: Level, "ves.node.id_slots.limit", "{range}",
        "ranges of user ids there are for containers";
    NodeDevices: Level, "ves.node.volumes.active", "{volume}",
        "volumes that have a block device of the node";
    NodeMemoryPromised: Level, "ves.node.memory.promised", "By",
        "the sum of the memory limits of containers that run";
    NodeSpoofed: Total, "ves.node.network.spoofed", "{packet}",
        "packets dropped because their source was not the container's";
    NodeServiceUp: Level, "ves.node.service.up", "",
        "1 where a service has answered this time, else 0";
}
