//! The values of parameters, from the words of the command line.
//!
//! Owns vzctl's units: a bare `--diskspace` is KiB, a bare `--ram` bytes, `--cpulimit` percent of one
//! processor. Each value is parsed before anything is asked of the coordinator. Never here: which
//! option has which value, or what it does.

use std::net::IpAddr;
use std::str::FromStr;

use ves_types::quantity::parse_size;
use ves_types::spec::parse_nameserver;
use ves_types::{
    CapabilityChange, CpuLimit, CtAddress, DeviceChange, DeviceId, DiskSize, FeatureSwitch,
    InodeLimit, IoBandwidth, IoPriority, IoRate, Limit, ParseError, SearchDomain, UbcValue,
};

/// The values of one option, separated by commas or spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

/// A value, or the wish that there be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clearable<T>(pub(crate) Option<T>);

/// All values of an option that may be repeated, each once, in the order given.
pub(crate) fn flattened<T: ToString>(lists: &[List<T>]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in lists.iter().flat_map(|s| &s.0).map(ToString::to_string) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

fn list<T>(
    what: &'static str,
    s: &str,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<List<T>, ParseError> {
    let words: Vec<T> = s
        .split([',', ' ', '\t', '\n'])
        .filter(|w| !w.is_empty())
        .map(parse)
        .collect::<Result<_, _>>()?;
    if words.is_empty() { Err(ParseError::new(what, s, "it is empty")) } else { Ok(List(words)) }
}

/// A list of which all mistakes are told at once.
fn all_of<T>(
    what: &'static str,
    s: &str,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<List<T>, String> {
    let words = s.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
    let mistakes: Vec<_> =
        words.filter_map(|word| parse(word).err()).map(|e| e.to_string()).collect();
    match mistakes.as_slice() {
        [_, _, ..] => Err(mistakes.join("; ")),
        _ => list(what, s, parse).map_err(|e| e.to_string()),
    }
}

pub(super) fn devnodes(s: &str) -> Result<List<DeviceChange>, String> {
    all_of("device", s, |word| {
        let change: DeviceChange = word.parse()?;
        match change.id {
            DeviceId::Name(_) => Ok(change),
            DeviceId::Number { .. } => {
                let why = "it must be a name below /dev; --devices takes numbers";
                Err(ParseError::new("device", word, why))
            }
        }
    })
}

pub(super) fn devices(s: &str) -> Result<List<DeviceChange>, String> {
    all_of("device", s, |word| {
        let change: DeviceChange = word.parse()?;
        match change.id {
            DeviceId::Number { .. } => Ok(change),
            DeviceId::Name(_) => {
                let why = "it must be c:MAJOR:MINOR or c:MAJOR:all; --devnodes takes names";
                Err(ParseError::new("device", word, why))
            }
        }
    })
}

pub(super) fn capabilities(s: &str) -> Result<List<CapabilityChange>, String> {
    all_of("capability", s, str::parse)
}

pub(super) fn addresses(s: &str) -> Result<List<CtAddress>, ParseError> {
    list("address", s, str::parse)
}

pub(super) fn removals(s: &str) -> Result<List<String>, ParseError> {
    list("address", s, |word| match word {
        "all" => Ok(word.to_owned()),
        word => word.parse::<CtAddress>().map(|a| a.to_string()),
    })
}

/// A list of which there may be nothing any more: `""`.
fn clearable_list<T>(
    what: &'static str,
    s: &str,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<List<T>, ParseError> {
    if s.is_empty() { Ok(List(Vec::new())) } else { list(what, s, parse) }
}

pub(super) fn nameservers(s: &str) -> Result<List<IpAddr>, ParseError> {
    clearable_list("name server", s, parse_nameserver)
}

pub(super) fn domains(s: &str) -> Result<List<SearchDomain>, ParseError> {
    clearable_list("search domain", s, |word| word.trim_end_matches('.').parse())
}

pub(super) fn features(s: &str) -> Result<List<FeatureSwitch>, ParseError> {
    list("feature", s, str::parse)
}

pub(super) fn or_empty<T>(s: &str) -> Result<String, ParseError>
where
    T: FromStr<Err = ParseError> + ToString,
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

pub(super) fn diskspace(s: &str) -> Result<DiskSize, ParseError> {
    hard("disk space", s, DiskSize::parse_kib)
}

pub(super) fn diskinodes(s: &str) -> Result<InodeLimit, ParseError> {
    hard("number of inodes", s, str::parse)
}

pub(super) fn memory(s: &str) -> Result<UbcValue, ParseError> {
    let limit = match s {
        "unlimited" => Limit::Unlimited,
        s => Limit::from_wire(parse_size("memory", s, 1)?.pages()),
    };
    Ok(UbcValue { barrier: Limit::Max(0), limit })
}

pub(super) fn cpulimit(s: &str) -> Result<Clearable<CpuLimit>, ParseError> {
    if s == "unlimited" { Ok(Clearable(None)) } else { CpuLimit::parse_percent(s).map(Clearable) }
}

pub(super) fn cpus(s: &str) -> Result<Clearable<u32>, ParseError> {
    let why = "it must be a number from 1 to 65536, or 0 or 'unlimited' for all";
    match s {
        "0" | "unlimited" => Ok(Clearable(None)),
        s => match s.parse() {
            Ok(n @ 1..=65_536) => Ok(Clearable(Some(n))),
            _ => Err(ParseError::new("number of processors", s, why)),
        },
    }
}

/// A value by its own rule, or "default", which takes it away.
pub(super) fn or_default<T: FromStr>(s: &str) -> Result<Clearable<T>, T::Err> {
    if s == "default" { Ok(Clearable(None)) } else { s.parse().map(Some).map(Clearable) }
}

pub(super) fn iolimit(s: &str) -> Result<Clearable<IoBandwidth>, ParseError> {
    match s {
        "unlimited" => Ok(Clearable(None)),
        "0" => Ok(Clearable(None)),
        s if s.bytes().all(|b| b.is_ascii_digit()) => {
            let why = "say of what: 20M or 20000000b; without that some vzctl took bytes and others megabytes";
            Err(ParseError::new("disk bandwidth", s, why))
        }
        s => match parse_size("disk bandwidth", s, 1)?.0 {
            0 => Ok(Clearable(None)),
            bytes => bytes.try_into().map(Some).map(Clearable),
        },
    }
}

/// A number in plain digits.
fn plain(what: &'static str, s: &str) -> Result<u64, ParseError> {
    s.parse().map_err(|_| ParseError::new(what, s, "it must be a whole number"))
}

pub(super) fn iopslimit(s: &str) -> Result<Clearable<IoRate>, ParseError> {
    match s {
        "0" | "unlimited" => Ok(Clearable(None)),
        s => plain("number of disk requests", s)?.try_into().map(Some).map(Clearable),
    }
}

pub(super) fn ioprio(s: &str) -> Result<IoPriority, ParseError> {
    plain("disk priority", s)?.try_into()
}

/// A value by its own rule, or "all", which takes the restriction away.
pub(super) fn or_all<T: FromStr>(s: &str) -> Result<Clearable<T>, T::Err> {
    if s == "all" { Ok(Clearable(None)) } else { s.parse().map(Some).map(Clearable) }
}

pub(super) fn bootorder(s: &str) -> Result<Clearable<i32>, ParseError> {
    match s {
        "none" | "" => Ok(Clearable(None)),
        s => s
            .parse()
            .map(|n| Clearable(Some(n)))
            .map_err(|_| ParseError::new("boot order", s, "it must be a whole number, or 'none'")),
    }
}

pub(super) fn yes_no(s: &str) -> Result<bool, ParseError> {
    match s {
        "yes" => Ok(true),
        "no" => Ok(false),
        s => Err(ParseError::new("choice", s, "it must be yes or no")),
    }
}
