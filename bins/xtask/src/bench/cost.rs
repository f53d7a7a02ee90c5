//! What a verb costs, counted from the system calls of the daemons and of what they start. Pure.

use std::collections::BTreeMap;

use super::calls::Call;

/// What is counted, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Requests over gRPC from one daemon to another, which is from the coordinator to a service.
    Rpcs,
    /// Calls that wait for a disk.
    Syncs,
    /// Processes made; threads are none.
    Processes,
    /// Programs executed.
    Programs,
    /// System calls, also those of the programs and of the container's init.
    Calls,
    /// Bytes written to the coordinator's store.
    Bytes,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Rpcs, Self::Syncs, Self::Processes, Self::Programs, Self::Calls, Self::Bytes];

    /// The column's word in the checked-in table.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Rpcs => "rpcs",
            Self::Syncs => "syncs",
            Self::Processes => "processes",
            Self::Programs => "programs",
            Self::Calls => "calls",
            Self::Bytes => "bytes",
        }
    }

    /// What it is called in sentences.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rpcs => "RPCs",
            Self::Calls => "system calls",
            Self::Bytes => "bytes stored",
            other => other.word(),
        }
    }

    /// Whether every machine counts the same.
    pub(crate) const fn is_exact(self) -> bool {
        self.tolerance() == 0
    }

    /// By how many percent it may differ and still be the same.
    pub(crate) const fn tolerance(self) -> u64 {
        match self {
            Self::Rpcs | Self::Syncs | Self::Processes | Self::Programs => 0,
            // Threads wake each other more or less often, and some directories are read whole.
            Self::Calls => 5,
            // The store's tree is of another shape when it holds more.
            Self::Bytes => 30,
        }
    }
}

/// What one verb cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    counts: BTreeMap<Kind, u64>,
    // Of what a count consists, as far as the calls tell.
    parts: BTreeMap<(Kind, String), u64>,
}

impl Cost {
    /// How much of it.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Of what a count consists, largest first; nothing where that is not known.
    pub(crate) fn parts(&self, kind: Kind) -> Vec<(&str, u64)> {
        let parts = self.parts.iter().filter(|((k, _), _)| *k == kind);
        let mut parts: Vec<_> = parts.map(|((_, what), n)| (what.as_str(), *n)).collect();
        parts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        parts
    }

    fn count(&mut self, kind: Kind, n: u64, what: &str) {
        if n > 0 {
            *self.counts.entry(kind).or_default() += n;
            if !what.is_empty() {
                *self.parts.entry((kind, what.to_owned())).or_default() += n;
            }
        }
    }

    /// One more call.
    pub(crate) fn add(&mut self, call: &Call) {
        let name = call.name();
        // What only a debug build asks, before it closes a descriptor.
        if name == "fcntl" && call.text().contains(", F_GETFD") {
            return;
        }
        self.count(Kind::Calls, 1, name);
        match name {
            "fsync" | "fdatasync" | "syncfs" | "sync" | "sync_file_range" | "msync" => {
                self.count(Kind::Syncs, 1, &format!("{name} {}", call.path().unwrap_or_default()));
            }
            "clone" | "clone3" | "fork" | "vfork" if !call.text().contains("CLONE_THREAD") => {
                self.count(Kind::Processes, 1, "");
            }
            "execve" | "execveat" if call.result() == Some(0) => {
                let program = call.strings().next().unwrap_or_default();
                self.count(Kind::Programs, 1, &String::from_utf8_lossy(&program));
            }
            "write" | "writev" | "sendto" | "sendmsg"
                if call.on_socket() && call.result().is_some_and(|n| n > 0) =>
            {
                let data: Vec<u8> = call.strings().flatten().collect();
                self.count(Kind::Rpcs, requests(&data), "");
            }
            "pwrite64" | "write" | "writev" | "pwritev" | "pwritev2"
                if call.path().is_some_and(|path| path.ends_with("/state.redb")) =>
            {
                let bytes = call.result().and_then(|n| u64::try_from(n).ok());
                self.count(Kind::Bytes, bytes.unwrap_or_default(), "");
            }
            _ => {}
        }
    }

    /// The cost in the middle of several, each count for itself.
    pub(crate) fn median(all: &[Self]) -> Self {
        let mut median = all.get(all.len() / 2).cloned().unwrap_or_default();
        for kind in Kind::ALL {
            let mut counts: Vec<u64> = all.iter().map(|cost| cost.of(kind)).collect();
            counts.sort_unstable();
            median.counts.insert(kind, counts.get(counts.len() / 2).copied().unwrap_or_default());
        }
        median
    }
}

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `:method: POST` in the table every peer begins with: so begins each request of gRPC, and no answer.
const POST: u8 = 0x83;

/// How many requests of gRPC begin in what was written to a socket at once; none where it is not HTTP/2.
fn requests(written: &[u8]) -> u64 {
    let mut rest = written.strip_prefix(PREFACE).unwrap_or(written);
    let mut requests = 0;
    while let [a, b, c, kind, _flags, _, _, _, _, payload @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]);
        let Some((frame, next)) = payload.split_at_checked(length as usize) else { return 0 };
        const HEADERS: u8 = 1;
        requests += u64::from(*kind == HEADERS && frame.first() == Some(&POST));
        rest = next;
    }
    if rest.is_empty() { requests } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(lines: &[&str]) -> Cost {
        let mut cost = Cost::default();
        for line in lines {
            cost.add(&Call::whole(0, line));
        }
        cost
    }

    const REQUEST: &str = r"\0\0\2\1\4\0\0\0?\203\206";
    const DATA: &str = r"\0\0\1\0\1\0\0\0?\0";
    const ANSWER: &str = r"\0\0\1\1\4\0\0\0A\210";

    #[test]
    fn requests_are_counted_and_answers_are_not() {
        let line = |fd: &str, text: &str| {
            format!("writev({fd}, [{{iov_base=\"{text}\", iov_len=9}}], 1) = 9")
        };
        let socket = "14<socket:[3513159]>";
        for (text, many) in [
            (REQUEST.to_owned(), 1),
            (format!("{REQUEST}{DATA}{REQUEST}{DATA}"), 2),
            (format!(r"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{REQUEST}"), 1),
            (ANSWER.to_owned(), 0),
            // The rest of something longer.
            (format!("{REQUEST}x"), 0),
            (r"\0\0\3\1\4\0\0\0?\203\206".to_owned(), 0),
        ] {
            assert_eq!(cost(&[&line(socket, &text)]).of(Kind::Rpcs), many, "{text}");
        }
        assert_eq!(cost(&[&line("14</run/file>", REQUEST)]).of(Kind::Rpcs), 0);
        let halves = format!(
            r#"writev(5<socket:[1]>, [{{iov_base="{REQUEST}{}", iov_len=20}}, {{iov_base="{}", iov_len=1}}], 2) = 21"#,
            r"\0\0\1\0\1\0\0\0?", r"\0"
        );
        assert_eq!(cost(&[&halves]).of(Kind::Rpcs), 1);
    }

    #[test]
    fn syncs_are_counted_with_their_files() {
        let cost = cost(&[
            "fdatasync(12</var/lib/ves/coordinator/state.redb>) = 0",
            "fdatasync(12</var/lib/ves/coordinator/state.redb>) = 0",
            "syncfs(12</run/ves/ct/102/root>) = 0",
            "fstat(3</x>, {}) = 0",
        ]);
        assert_eq!(cost.of(Kind::Syncs), 3);
        assert_eq!(cost.of(Kind::Calls), 4);
        assert_eq!(
            cost.parts(Kind::Syncs),
            [
                ("fdatasync /var/lib/ves/coordinator/state.redb", 2),
                ("syncfs /run/ves/ct/102/root", 1)
            ]
        );
    }

    #[test]
    fn debug_builds_make_no_more_calls() {
        let cost = cost(&[
            "fcntl(13<socket:[3557705]>, F_GETFD) = 0x1 (flags FD_CLOEXEC)",
            "fcntl(13</a>, F_DUPFD_CLOEXEC, 3) = 14</a>",
        ]);
        assert_eq!(cost.of(Kind::Calls), 1);
    }

    #[test]
    fn threads_are_no_processes() {
        let cost = cost(&[
            "clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD, exit_signal=0}, 88) = 9142",
            "clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD}, 88) = 9141",
            "vfork() = 12",
            r#"execve("/usr/sbin/resize2fs", ["resize2fs"], 0x7f /* 2 vars */) = 0"#,
            r#"execve("/bin/none", ["none"], 0x7f /* 2 vars */) = -1 ENOENT (No such file)"#,
        ]);
        assert_eq!(cost.of(Kind::Processes), 2);
        assert_eq!(cost.of(Kind::Programs), 1);
        assert_eq!(cost.parts(Kind::Programs), [("/usr/sbin/resize2fs", 1)]);
    }

    #[test]
    fn only_what_goes_to_the_store_is_stored() {
        let cost = cost(&[
            r#"pwrite64(12</var/lib/ves/coordinator/state.redb>, "redb\32\n"..., 4096, 8192) = 4096"#,
            r#"pwrite64(12</var/lib/ves/coordinator/state.redb>, "redb\32\n"..., 320, 0) = 320"#,
            r#"pwrite64(12</var/lib/ves/coordinator/state.redb>, "", 320, 0) = -1 ENOSPC (No space)"#,
            r#"pwrite64(4</var/lib/ves/storage/pool.img>, "", 320, 0) = 320"#,
        ]);
        assert_eq!(cost.of(Kind::Bytes), 4416);
    }

    #[test]
    fn the_median_is_of_each_count_for_itself() {
        let sync = "fsync(1</a>) = 0";
        let open = "close(1</a>) = 0";
        let all = [cost(&[sync, sync]), cost(&[open, open, open]), cost(&[sync, open, open, open])];
        let median = Cost::median(&all);
        assert_eq!(median.of(Kind::Syncs), 1);
        assert_eq!(median.of(Kind::Calls), 3);
        assert_eq!(Cost::median(&[]).of(Kind::Calls), 0);
    }
}
