//! The options by which `create` and `set` take parameters.
//!
//! Owns vzctl's words for parameters and which of them exclude each other. Never here: how a value is
//! read, what it does, or a password on its way to a log.

mod tag;
mod value;

use std::net::IpAddr;

use clap::{ArgAction, Args};
use ves_types::{
    CapabilityChange, CpuLimit, CtAddress, CtName, DeviceChange, DiskSize, FeatureSwitch, Hostname,
    IndexList, InodeLimit, IoBandwidth, IoPriority, IoRate, RestartPolicy, SearchDomain,
    SnapshotSchedule, StopTimeout, UbcResource, UbcValue,
};

use crate::password::Secret;
use crate::unbuilt::UnbuiltOptions;

pub(crate) use tag::{TagChange, changed};
pub(crate) use value::{Clearable, List, flattened};

macro_rules! ubc {
    ($($id:ident $variant:ident $name:literal $(($short:literal))? $help:literal;)*) => {
        /// The 21 UBC parameters.
        #[derive(Debug, Args)]
        #[command(next_help_heading = "UBC parameters: BARRIER[:LIMIT], with t g m k p(ages) b, or unlimited")]
        pub(crate) struct Ubc { $(
            #[arg(long = $name, $(short = $short,)? value_name = "B[:L]", help = $help,
                value_parser = |s: &str| UbcValue::parse(UbcResource::$variant, s))]
            $id: Option<UbcValue>,
        )* }

        impl Ubc {
            /// Those that were given.
            pub(crate) fn given(&self) -> impl Iterator<Item = (UbcResource, UbcValue)> {
                [$((UbcResource::$variant, self.$id)),*]
                    .into_iter()
                    .filter_map(|(resource, value)| Some((resource, value?)))
            }
        }
    };
}

ubc! {
    numproc Numproc "numproc" ('p') "Processes and threads";
    numtcpsock Numtcpsock "numtcpsock" "TCP sockets";
    numothersock Numothersock "numothersock" "Other sockets";
    vmguarpages Vmguarpages "vmguarpages" "Memory that can be allocated for certain";
    kmemsize Kmemsize "kmemsize" ('k') "Kernel memory";
    tcpsndbuf Tcpsndbuf "tcpsndbuf" "Send buffers of TCP sockets";
    tcprcvbuf Tcprcvbuf "tcprcvbuf" "Receive buffers of TCP sockets";
    othersockbuf Othersockbuf "othersockbuf" "Send buffers of other sockets";
    dgramrcvbuf Dgramrcvbuf "dgramrcvbuf" "Receive buffers of datagram sockets";
    oomguarpages Oomguarpages "oomguarpages" "Memory below which nothing is killed for others";
    lockedpages Lockedpages "lockedpages" ('l') "Memory locked by mlock";
    privvmpages Privvmpages "privvmpages" "Address space that may become private memory";
    shmpages Shmpages "shmpages" "Shared memory";
    physpages Physpages "physpages" "Memory in RAM";
    numfile Numfile "numfile" ('n') "Open files";
    numflock Numflock "numflock" ('f') "File locks";
    numpty Numpty "numpty" ('t') "Pseudo-terminals";
    numsiginfo Numsiginfo "numsiginfo" ('i') "Queued signals";
    dcachesize Dcachesize "dcachesize" "Directory entries held in memory";
    numiptent Numiptent "numiptent" ('e') "Packet filter rules";
    swappages Swappages "swappages" "Memory in swap";
}

/// What both `create` and `set` take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub(crate) struct Params {
    /// A second way to name it; "" takes the name away
    #[arg(long, value_parser = value::or_empty::<CtName>)]
    pub(crate) name: Option<String>,
    /// Host name; "" leaves it to the container, as where none is given
    #[arg(long, value_parser = value::or_empty::<Hostname>)]
    pub(crate) hostname: Option<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A label, by which lists can be filtered; KEY- takes it away; may be repeated
    #[arg(long, value_name = "KEY=VALUE|KEY-", action = ArgAction::Append)]
    pub(crate) label: Vec<TagChange>,
    /// A note of a program, which Ves never reads; KEY- takes it away; may be repeated
    #[arg(long, value_name = "KEY=VALUE|KEY-", action = ArgAction::Append)]
    pub(crate) annotation: Vec<TagChange>,
    /// Whether it cannot be destroyed
    #[arg(long, value_name = "yes|no", value_parser = value::yes_no)]
    pub(crate) delete_protection: Option<bool>,
    /// An address to give it; may be repeated, and hold several with commas or spaces
    #[arg(long, value_name = "A", value_parser = value::addresses, action = ArgAction::Append)]
    pub(crate) ipadd: Vec<List<CtAddress>>,
    /// A name server; may be repeated; all given replace all there were; "" leaves them to the container
    #[arg(long, value_name = "A", value_parser = value::nameservers, action = ArgAction::Append)]
    pub(crate) nameserver: Vec<List<IpAddr>>,
    /// A search domain; may be repeated; all given replace all there were; "" leaves them to the container
    #[arg(long, value_name = "DOMAIN", value_parser = value::domains, action = ArgAction::Append)]
    pub(crate) searchdomain: Vec<List<SearchDomain>>,
    /// Size of its volume; a bare number is KiB; the hard limit counts
    #[arg(long, value_name = "S[:H]", value_parser = value::diskspace)]
    pub(crate) diskspace: Option<DiskSize>,
    /// Number of its inodes; the hard limit counts
    #[arg(long, value_name = "S[:H]", value_parser = value::diskinodes)]
    pub(crate) diskinodes: Option<InodeLimit>,
    /// Memory in RAM; sets the limit of physpages
    #[arg(long, value_name = "BYTES", value_parser = value::memory, conflicts_with = "physpages")]
    pub(crate) ram: Option<UbcValue>,
    /// Memory in swap; sets the limit of swappages
    #[arg(long, value_name = "BYTES", value_parser = value::memory, conflicts_with = "swappages")]
    pub(crate) swap: Option<UbcValue>,
    /// Processor time in percent of one processor; 0 is unlimited
    #[arg(long, value_name = "PERCENT", value_parser = value::cpulimit)]
    pub(crate) cpulimit: Option<Clearable<CpuLimit>>,
    /// Weight in processor time, 8 to 500000; 1000 is usual
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=500_000))]
    pub(crate) cpuunits: Option<u32>,
    /// Processors it may use at once; 0 is all
    #[arg(long, value_name = "N", value_parser = value::cpus)]
    pub(crate) cpus: Option<Clearable<u32>>,
    /// Processors it may run on, such as 0-2,5, or "all"; with --cpus, so many of them
    #[arg(long, value_name = "LIST|all", value_parser = value::or_all::<IndexList>)]
    pub(crate) cpumask: Option<Clearable<IndexList>>,
    /// NUMA nodes whose memory it may have, such as 0,1, or "all"
    #[arg(long, value_name = "LIST|all", value_parser = value::or_all::<IndexList>)]
    pub(crate) nodemask: Option<Clearable<IndexList>>,
    /// Weight of its disk traffic, 0 to 7; 4 is usual
    #[arg(long, value_name = "0-7", value_parser = value::ioprio)]
    pub(crate) ioprio: Option<IoPriority>,
    /// Bytes a second it may read from its disk, and as many it may write, such as 20M; 0 is unlimited
    #[arg(long, value_name = "BYTES", value_parser = value::iolimit)]
    pub(crate) iolimit: Option<Clearable<IoBandwidth>>,
    /// Requests a second it may make of its disk, of reads and as many of writes; 0 is unlimited
    #[arg(long, value_name = "N", value_parser = value::iopslimit)]
    pub(crate) iopslimit: Option<Clearable<IoRate>>,
    /// How long its init may take to stop, in seconds; "default" is 120
    #[arg(long, value_name = "S", value_parser = value::or_default::<StopTimeout>)]
    pub(crate) stop_timeout: Option<Clearable<StopTimeout>>,
    /// Start it again when it ended by itself, 1, 2, 4, … 300 seconds later: never, where it was not halted
    /// inside, or always; never after a stop
    #[arg(long, value_name = "no|on-failure|always")]
    pub(crate) restart: Option<RestartPolicy>,
    /// Take snapshots by themselves while it runs, and keep so many of each kind: hourly:24,daily:7,weekly:4;
    /// none takes no more and deletes none
    #[arg(long, value_name = "INTERVAL:N[,…]|none")]
    pub(crate) snapshots: Option<SnapshotSchedule>,
    /// A device of the node, by its name below /dev, and what may be done with it: net/tun:rw; none takes it
    /// away; may be repeated, and hold several with commas; taken at the next start
    #[arg(long, value_name = "NAME:[r][w]|none", value_parser = value::devnodes, action = ArgAction::Append)]
    pub(crate) devnodes: Vec<List<DeviceChange>>,
    /// The same by number, of which the node is asked for the name: c:10:200:rw
    #[arg(long, value_name = "c:MAJOR:MINOR|all:[r][w]|none", value_parser = value::devices, action = ArgAction::Append)]
    pub(crate) devices: Vec<List<DeviceChange>>,
    /// A capability that it has or has not, with or without CAP_: net_raw:off; may be repeated, and hold
    /// several with commas; taken at the next start
    #[arg(long, value_name = "NAME:on|off", value_parser = value::capabilities, action = ArgAction::Append)]
    pub(crate) capability: Vec<List<CapabilityChange>>,
    /// What of the kernel it may use: nesting (Docker, Podman and the like inside; it is not migratable then),
    /// migratable (nothing that hinders a checkpoint), abi32 (32-bit programs)
    #[arg(long, value_name = "NAME:on|off[,…]", value_parser = value::features, action = ArgAction::Append)]
    pub(crate) features: Vec<List<FeatureSwitch>>,
    /// Start it when the node starts
    #[arg(long, value_name = "yes|no", value_parser = value::yes_no)]
    pub(crate) onboot: Option<bool>,
    /// Greater starts earlier; "none" is last
    #[arg(long, value_name = "N", value_parser = value::bootorder, allow_hyphen_values = true)]
    pub(crate) bootorder: Option<Clearable<i32>>,
    /// Whether it is not started without --force
    #[arg(long, value_name = "yes|no", value_parser = value::yes_no)]
    pub(crate) disabled: Option<bool>,
    /// A user's password inside a running container; the user is made if need be; "-" reads USER:PASSWORD from stdin
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) userpasswd: Option<Secret>,
    #[command(flatten)]
    pub(crate) ubc: Ubc,
    #[command(flatten)]
    pub(crate) unbuilt: UnbuiltOptions,
}

impl Params {
    /// `--devnodes` and `--devices`, in the order of each.
    pub(crate) fn device_changes(&self) -> Vec<DeviceChange> {
        self.devnodes.iter().chain(&self.devices).flat_map(|list| list.0.clone()).collect()
    }

    /// `--capability`, in the order given.
    pub(crate) fn capability_changes(&self) -> Vec<CapabilityChange> {
        self.capability.iter().flat_map(|list| list.0.clone()).collect()
    }
}

/// What `create` takes.
#[derive(Debug, Args)]
pub(crate) struct CreateParams {
    #[command(flatten)]
    pub(crate) params: Params,
    /// The project it belongs to, for good
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// The node it is made on (not built yet)
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
}

/// What `set` takes.
#[derive(Debug, Args)]
pub(crate) struct SetParams {
    #[command(flatten)]
    pub(crate) params: Params,
    /// An address to take away, or "all"; may be repeated
    #[arg(long, value_name = "A|all", value_parser = value::removals, action = ArgAction::Append)]
    pub(crate) ipdel: Vec<List<String>>,
}
