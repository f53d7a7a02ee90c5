//! The parameters of `create` and `set`, and what they make of a specification.
//!
//! Owns vzctl's words for parameters and their units: a bare `--diskspace` is KiB, a bare `--ram`
//! bytes, `--cpulimit` percent of one processor. Each value is parsed before anything is asked of
//! the coordinator. Never here: what a value does, or a password on its way to a log.

use std::net::IpAddr;

use clap::{ArgAction, Args};
use ves_proto::coordinator::ContainerSpec;
use ves_proto::{common, convert};
use ves_types::quantity::parse_size;
use ves_types::{
    Bytes, CpuLimit, CtAddress, CtName, Hostname, Limit, ParseError, UbcResource, UbcValue,
};

use crate::failure::Failure;
use crate::sample::Sample;
use crate::unbuilt::UnbuiltOptions;

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
            fn given(&self) -> impl Iterator<Item = (UbcResource, UbcValue)> {
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
    #[arg(long, value_parser = or_empty::<CtName>)]
    pub(crate) name: Option<String>,
    /// Host name
    #[arg(long, value_parser = or_empty::<Hostname>)]
    pub(crate) hostname: Option<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// An address to give it; may be repeated, and hold several with commas or spaces
    #[arg(long, value_name = "A", value_parser = addresses, action = ArgAction::Append)]
    pub(crate) ipadd: Vec<Several<CtAddress>>,
    /// A name server; may be repeated; all given replace all there were
    #[arg(long, value_name = "A", value_parser = nameservers, action = ArgAction::Append)]
    pub(crate) nameserver: Vec<Several<IpAddr>>,
    /// A search domain; may be repeated; all given replace all there were
    #[arg(long, value_name = "DOMAIN", value_parser = domains, action = ArgAction::Append)]
    pub(crate) searchdomain: Vec<Several<Hostname>>,
    /// Size of its volume; a bare number is KiB; the hard limit counts
    #[arg(long, value_name = "S[:H]", value_parser = diskspace)]
    pub(crate) diskspace: Option<Bytes>,
    /// Number of its inodes; the hard limit counts
    #[arg(long, value_name = "S[:H]", value_parser = diskinodes)]
    pub(crate) diskinodes: Option<u64>,
    /// Memory in RAM; sets the limit of physpages
    #[arg(long, value_name = "BYTES", value_parser = memory, conflicts_with = "physpages")]
    pub(crate) ram: Option<UbcValue>,
    /// Memory in swap; sets the limit of swappages
    #[arg(long, value_name = "BYTES", value_parser = memory, conflicts_with = "swappages")]
    pub(crate) swap: Option<UbcValue>,
    /// Processor time in percent of one processor; 0 is unlimited
    #[arg(long, value_name = "PERCENT", value_parser = cpulimit)]
    pub(crate) cpulimit: Option<Perhaps<CpuLimit>>,
    /// Weight in processor time, 8 to 500000; 1000 is usual
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=500_000))]
    pub(crate) cpuunits: Option<u32>,
    /// Processors it may use at once; 0 is all
    #[arg(long, value_name = "N", value_parser = cpus)]
    pub(crate) cpus: Option<Perhaps<u32>>,
    /// Start it when the node starts
    #[arg(long, value_name = "yes|no", value_parser = yes_no)]
    pub(crate) onboot: Option<bool>,
    /// Greater starts earlier; "none" is last
    #[arg(long, value_name = "N", value_parser = bootorder, allow_hyphen_values = true)]
    pub(crate) bootorder: Option<Perhaps<i32>>,
    /// Whether it is not started without --force
    #[arg(long, value_name = "yes|no", value_parser = yes_no)]
    pub(crate) disabled: Option<bool>,
    /// A user's password inside a running container; the user is made if need be; "-" reads USER:PASSWORD from stdin
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) userpasswd: Option<Secret>,
    #[command(flatten)]
    pub(crate) ubc: Ubc,
    #[command(flatten)]
    pub(crate) unbuilt: UnbuiltOptions,
}

/// What `create` takes.
#[derive(Debug, Args)]
pub(crate) struct CreateParams {
    #[command(flatten)]
    pub(crate) params: Params,
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
    #[arg(long, value_name = "A|all", value_parser = removals, action = ArgAction::Append)]
    pub(crate) ipdel: Vec<Several<String>>,
}

impl SetParams {
    /// Options that were given and are not built.
    #[cfg(test)]
    pub(crate) const fn unbuilt(&self) -> &UnbuiltOptions {
        &self.params.unbuilt
    }
}

/// Words of one option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Several<T>(pub(crate) Vec<T>);

/// A value, or none of it said explicitly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Perhaps<T>(pub(crate) Option<T>);

/// Text that is never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(s.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Whose password to set, and to what.
#[derive(Debug, Clone)]
pub(crate) struct UserPassword {
    /// A user name as useradd takes it.
    pub(crate) user: String,
    /// The password.
    pub(crate) password: Secret,
}

impl UserPassword {
    /// `USER:PASSWORD`. No error repeats the password.
    pub(crate) fn parse(secret: &Secret) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("bad --userpasswd: {why}"));
        let (user, password) =
            secret.0.split_once(':').ok_or_else(|| wrong("it must be USER:PASSWORD"))?;
        let first = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let rest = user
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b));
        if !first || !rest || user.len() > 32 {
            return Err(wrong("the user's name may hold a-z, 0-9, '_', '-' and '.' only"));
        }
        if password.is_empty() || password.len() > 512 || password.contains(['\n', '\r', '\0']) {
            return Err(wrong("the password must be one line of 1 to 512 bytes"));
        }
        Ok(Self { user: user.to_owned(), password: Secret(password.to_owned()) })
    }
}

/// A specification and which of its fields are meant.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// The values.
    pub(crate) spec: ContainerSpec,
    /// Field names as `update_mask` has them.
    pub(crate) mask: Vec<String>,
}

impl Wanted {
    fn limits(&mut self) -> &mut common::Limits {
        self.spec.limits.get_or_insert_default()
    }
    fn means(&mut self, field: impl Into<String>) {
        let field = field.into();
        if !self.mask.contains(&field) {
            self.mask.push(field);
        }
    }
    fn ubc(&mut self, resource: UbcResource, value: UbcValue) {
        let value = convert::render_ubc(value);
        self.limits().ubc.insert(resource.name().to_owned(), value);
        self.means(format!("limits.ubc.{resource}"));
    }
    fn cpu_units(&mut self, units: u32) {
        self.limits().cpu_units = Some(units);
        self.means("limits.cpu_units");
    }
    fn disk(&mut self, size: Bytes) {
        self.spec.disk_bytes = size.0;
        self.means("disk_bytes");
    }

    /// All of a sample but its disk, which only a new container takes.
    pub(crate) fn sample(&mut self, sample: &Sample, disk: bool) {
        for (resource, value) in sample.ubc() {
            self.ubc(resource, value);
        }
        self.cpu_units(sample.cpu_units);
        if disk {
            self.disk(sample.disk);
        }
    }

    /// What was given on the command line; `--ipadd` is left to the caller.
    pub(crate) fn params(&mut self, params: &Params) {
        let Params {
            name,
            hostname,
            description,
            ipadd: _,
            nameserver,
            searchdomain,
            diskspace,
            diskinodes,
            ram,
            swap,
            cpulimit,
            cpuunits,
            cpus,
            onboot,
            bootorder,
            disabled,
            userpasswd: _,
            ubc,
            unbuilt: _,
        } = params;
        if let Some(name) = name {
            self.spec.name.clone_from(name);
            self.means("name");
        }
        if let Some(hostname) = hostname {
            self.spec.hostname.clone_from(hostname);
            self.means("hostname");
        }
        if let Some(description) = description {
            self.spec.description.clone_from(description);
            self.means("description");
        }
        if !nameserver.is_empty() {
            self.spec.nameservers = flat(nameserver);
            self.means("nameservers");
        }
        if !searchdomain.is_empty() {
            self.spec.search_domains = flat(searchdomain);
            self.means("search_domains");
        }
        if let Some(size) = diskspace {
            self.disk(*size);
        }
        if let Some(inodes) = diskinodes {
            self.spec.disk_inodes = Some(*inodes);
            self.means("disk_inodes");
        }
        for (resource, value) in ubc.given() {
            self.ubc(resource, value);
        }
        if let Some(value) = ram {
            self.ubc(UbcResource::Physpages, *value);
        }
        if let Some(value) = swap {
            self.ubc(UbcResource::Swappages, *value);
        }
        if let Some(Perhaps(limit)) = cpulimit {
            self.limits().cpu_millicpus = limit.map(|l| l.millicpus);
            self.means("limits.cpu_millicpus");
        }
        if let Some(units) = cpuunits {
            self.cpu_units(*units);
        }
        if let Some(Perhaps(cpus)) = cpus {
            self.limits().cpus = *cpus;
            self.means("limits.cpus");
        }
        if let Some(onboot) = onboot {
            self.spec.onboot = *onboot;
            self.means("onboot");
        }
        if let Some(Perhaps(order)) = bootorder {
            self.spec.boot_order = *order;
            self.means("boot_order");
        }
        if let Some(disabled) = disabled {
            self.spec.disabled = *disabled;
            self.means("disabled");
        }
    }
}

/// All words of an option that may be repeated, each once, in the order given.
pub(crate) fn flat<T: ToString>(several: &[Several<T>]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in several.iter().flat_map(|s| &s.0).map(ToString::to_string) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

fn several<T>(
    what: &'static str,
    s: &str,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<Several<T>, ParseError> {
    let words: Vec<T> = s
        .split([',', ' ', '\t', '\n'])
        .filter(|w| !w.is_empty())
        .map(parse)
        .collect::<Result<_, _>>()?;
    if words.is_empty() { Err(ParseError::new(what, s, "it is empty")) } else { Ok(Several(words)) }
}

fn addresses(s: &str) -> Result<Several<CtAddress>, ParseError> {
    several("address", s, str::parse)
}

fn removals(s: &str) -> Result<Several<String>, ParseError> {
    several("address", s, |word| match word {
        "all" => Ok(word.to_owned()),
        word => word.parse::<CtAddress>().map(|a| a.to_string()),
    })
}

fn nameservers(s: &str) -> Result<Several<IpAddr>, ParseError> {
    several("name server", s, |word| {
        word.parse()
            .map_err(|_| ParseError::new("name server", word, "it must be an IPv4 or IPv6 address"))
    })
}

fn domains(s: &str) -> Result<Several<Hostname>, ParseError> {
    several("search domain", s, |word| word.trim_end_matches('.').parse())
}

fn or_empty<T>(s: &str) -> Result<String, ParseError>
where
    T: std::str::FromStr<Err = ParseError> + ToString,
{
    if s.is_empty() { Ok(String::new()) } else { s.parse::<T>().map(|t| t.to_string()) }
}

/// The hard part of `SOFT[:HARD]`, both read by `part`.
fn hard<T: Copy + PartialOrd>(
    what: &'static str,
    s: &str,
    part: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<T, ParseError> {
    let Some((soft, hard)) = s.split_once(':') else { return part(s) };
    let (soft, hard) = (part(soft)?, part(hard)?);
    if soft > hard {
        return Err(ParseError::new(what, s, "the soft limit must not exceed the hard one"));
    }
    Ok(hard)
}

fn diskspace(s: &str) -> Result<Bytes, ParseError> {
    let size = hard("disk space", s, |part| parse_size("disk space", part, 1024))?;
    if size.0 == 0 {
        return Err(ParseError::new("disk space", s, "a volume cannot be empty"));
    }
    Ok(size)
}

fn diskinodes(s: &str) -> Result<u64, ParseError> {
    let why = "it must be a plain number from 1 to 4294967295";
    hard("number of inodes", s, |part| match part.parse::<u32>() {
        Ok(n) if n > 0 && part.bytes().all(|b| b.is_ascii_digit()) => Ok(u64::from(n)),
        _ => Err(ParseError::new("number of inodes", part, why)),
    })
}

fn memory(s: &str) -> Result<UbcValue, ParseError> {
    let limit = match s {
        "unlimited" => Limit::Unlimited,
        s => Limit::from_wire(parse_size("memory", s, 1)?.pages()),
    };
    Ok(UbcValue { barrier: Limit::Max(0), limit })
}

fn cpulimit(s: &str) -> Result<Perhaps<CpuLimit>, ParseError> {
    if s == "unlimited" { Ok(Perhaps(None)) } else { CpuLimit::parse_percent(s).map(Perhaps) }
}

fn cpus(s: &str) -> Result<Perhaps<u32>, ParseError> {
    let why = "it must be a number from 1 to 65536, or 0 or 'unlimited' for all";
    match s {
        "0" | "unlimited" => Ok(Perhaps(None)),
        s => match s.parse() {
            Ok(n @ 1..=65_536) => Ok(Perhaps(Some(n))),
            _ => Err(ParseError::new("number of processors", s, why)),
        },
    }
}

fn bootorder(s: &str) -> Result<Perhaps<i32>, ParseError> {
    match s {
        "none" | "" => Ok(Perhaps(None)),
        s => s
            .parse()
            .map(|n| Perhaps(Some(n)))
            .map_err(|_| ParseError::new("boot order", s, "it must be a whole number, or 'none'")),
    }
}

fn yes_no(s: &str) -> Result<bool, ParseError> {
    match s {
        "yes" => Ok(true),
        "no" => Ok(false),
        s => Err(ParseError::new("choice", s, "it must be yes or no")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser as _;

    fn wanted(options: &[&str]) -> Result<Wanted, clap::Error> {
        let line = ["virtctl", "set", "101"].iter().chain(options);
        let Cli { verb: Verb::Set(args), .. } = Cli::try_parse_from(line)? else {
            panic!("set is set")
        };
        let mut wanted = Wanted::default();
        wanted.params(&args.params.params);
        Ok(wanted)
    }

    fn ubc(options: &[&str], name: &str) -> (u64, u64) {
        let wanted = wanted(options).expect("the options are valid");
        let value = wanted.spec.limits.expect("a limit was given").ubc[name];
        assert_eq!(wanted.mask, [format!("limits.ubc.{name}")]);
        (value.barrier, value.limit)
    }

    #[test]
    fn all_21_parameters_are_there() {
        for resource in UbcResource::ALL {
            let option = format!("--{resource}");
            assert_eq!(ubc(&[&option, "8192:16384"], resource.name()), (8192, 16384));
            assert_eq!(ubc(&[&option, "1:unlimited"], resource.name()), (1, Limit::UNLIMITED_TEXT));
            for bad in ["", "x", "2:1", "1:2:3", "-1"] {
                assert!(wanted(&[&format!("{option}={bad}")]).is_err(), "{option} {bad:?}");
            }
        }
    }

    #[test]
    fn units_are_those_of_vzctl() {
        assert_eq!(ubc(&["--ram", "512M"], "physpages"), (0, 131_072));
        assert_eq!(ubc(&["--ram", "4097"], "physpages"), (0, 2));
        assert_eq!(ubc(&["--swap", "0"], "swappages"), (0, 0));
        assert_eq!(ubc(&["--swap", "unlimited"], "swappages"), (0, Limit::UNLIMITED_TEXT));
        assert_eq!(ubc(&["-p", "100"], "numproc"), (100, 100));
        assert_eq!(ubc(&["--privvmpages", "1g"], "privvmpages"), (262_144, 262_144));
        let disk = |s: &str| wanted(&["--diskspace", s]).map(|w| w.spec.disk_bytes).ok();
        assert_eq!(disk("1048576"), Some(1 << 30));
        assert_eq!(disk("10G:11G"), Some(11 << 30));
        assert_eq!(disk("2G:1G"), None);
        assert_eq!(disk("0"), None);
        let cpu = |s: &str| {
            wanted(&["--cpulimit", s]).map(|w| w.spec.limits.expect("set").cpu_millicpus).ok()
        };
        assert_eq!(cpu("150%"), Some(Some(1500)));
        assert_eq!(cpu("0"), Some(None));
        assert_eq!(cpu("x"), None);
    }

    #[test]
    fn only_what_was_given_is_meant() {
        let w = wanted(&[
            "--hostname",
            "a.example",
            "--name",
            "web",
            "--onboot",
            "yes",
            "--bootorder",
            "-3",
            "--disabled",
            "no",
            "--cpus",
            "2",
            "--cpuunits",
            "500",
            "--nameserver",
            "192.0.2.1,::1",
            "--nameserver",
            "192.0.2.1",
            "--searchdomain",
            "example.org.",
            "--diskinodes",
            "1:9",
            "--description",
            "d",
        ])
        .expect("valid");
        assert_eq!(
            w.mask,
            [
                "name",
                "hostname",
                "description",
                "nameservers",
                "search_domains",
                "disk_inodes",
                "limits.cpu_units",
                "limits.cpus",
                "onboot",
                "boot_order",
                "disabled"
            ]
        );
        assert_eq!(w.spec.nameservers, ["192.0.2.1", "::1"]);
        assert_eq!(w.spec.search_domains, ["example.org"]);
        assert_eq!((w.spec.boot_order, w.spec.disk_inodes), (Some(-3), Some(9)));
        assert_eq!(wanted(&[]).expect("valid"), Wanted::default());
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            ["--ipadd", "10.0.0.1/24"],
            ["--ipadd", ""],
            ["--ipadd", "127.0.0.1"],
            ["--ipadd", "10.0.0.1,x"],
            ["--ipdel", "everything"],
            ["--hostname", "a_b"],
            ["--name", "1a"],
            ["--nameserver", "ns.example"],
            ["--searchdomain", "-x"],
            ["--diskspace", "1x"],
            ["--diskspace", "1:"],
            ["--diskinodes", "1k"],
            ["--diskinodes", "0"],
            ["--diskinodes", "+5"],
            ["--ram", "lots"],
            ["--ram", "-1"],
            ["--cpus", "-1"],
            ["--cpus", "65537"],
            ["--cpuunits", "7"],
            ["--cpuunits", "500001"],
            ["--onboot", "maybe"],
            ["--bootorder", "first"],
            ["--disabled", "1"],
        ] {
            assert!(wanted(&bad).is_err(), "{bad:?}");
        }
        assert!(wanted(&["--ram", "1g", "--physpages", "1"]).is_err());
    }

    #[test]
    fn passwords_are_not_repeated() {
        for bad in ["nopassword", "ROOT:sesame", "a b:sesame", ":sesame", "u:", "u:ses\name"] {
            let error = UserPassword::parse(&Secret(bad.into())).expect_err(bad);
            assert!(!format!("{error:?}").contains("ses"), "{bad:?}");
        }
        let good = UserPassword::parse(&Secret("root:a:b".into())).expect("valid");
        assert_eq!((good.user.as_str(), good.password.0.as_str()), ("root", "a:b"));
        assert!(!format!("{good:?}").contains("a:b"));
    }
}
