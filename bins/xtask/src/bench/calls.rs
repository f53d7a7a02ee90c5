//! Reads what `strace -f -y -ttt` writes: the lines of many threads become whole calls. Pure.

use std::collections::HashMap;

/// A system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// When it began, in microseconds since the epoch.
    pub(crate) at: u64,
    // `name(arguments) = result`; without the result where none was seen.
    text: String,
}

impl Call {
    /// One that began then.
    pub(crate) fn whole(at: u64, text: &str) -> Self {
        Self { at, text: text.to_owned() }
    }

    /// All of it as strace shows it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.text.split('(').next().unwrap_or_default()
    }

    /// What it answered: a number, negative for an error; none where it did not come back.
    pub(crate) fn result(&self) -> Option<i64> {
        let (_, result) = self.text.rsplit_once(" = ")?;
        let end = result.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(result.len());
        result.get(..end)?.parse().ok()
    }

    /// What its first argument is a descriptor of.
    fn descriptor(&self) -> Option<&str> {
        let (_, arguments) = self.text.split_once('(')?;
        let (number, rest) = arguments.split_once('<')?;
        let numeric = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let end = rest.find(['>', '"'])?;
        rest.get(..end).filter(|_| numeric)
    }

    /// The path of the file its first argument is a descriptor of.
    pub(crate) fn path(&self) -> Option<&str> {
        self.descriptor().filter(|what| what.starts_with('/'))
    }

    /// Whether its first argument is a socket.
    pub(crate) fn on_socket(&self) -> bool {
        self.descriptor().is_some_and(|what| what.starts_with("socket:"))
    }

    /// What stands in quotes, as the bytes it was.
    pub(crate) fn strings(&self) -> impl Iterator<Item = Vec<u8>> {
        let mut rest = self.text.as_bytes();
        std::iter::from_fn(move || {
            let begin = rest.iter().position(|b| *b == b'"')? + 1;
            let (string, after) = unquoted(rest.get(begin..)?);
            rest = after;
            Some(string)
        })
    }
}

/// Reads up to the closing quote; hands back what was said and what comes behind the quote.
fn unquoted(mut rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut said = Vec::new();
    loop {
        let (byte, after) = match rest {
            [] => return (said, rest),
            [b'"', after @ ..] => return (said, after),
            [b'\\', b'0'..=b'7', ..] => {
                let (mut value, mut after) = (0_u16, rest.get(1..).unwrap_or_default());
                for _ in 0..3 {
                    let [digit @ b'0'..=b'7', more @ ..] = after else { break };
                    (value, after) = (value * 8 + u16::from(digit - b'0'), more);
                }
                (u8::try_from(value).unwrap_or(u8::MAX), after)
            }
            [b'\\', b'n', after @ ..] => (b'\n', after),
            [b'\\', b't', after @ ..] => (b'\t', after),
            [b'\\', b'r', after @ ..] => (b'\r', after),
            [b'\\', b'v', after @ ..] => (0x0b, after),
            [b'\\', b'f', after @ ..] => (0x0c, after),
            [b'\\', byte, after @ ..] | [byte, after @ ..] => (*byte, after),
        };
        said.push(byte);
        rest = after;
    }
}

/// The calls of a trace, as its lines come.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    // By thread, what has begun and is not known to have ended.
    begun: HashMap<u32, Call>,
}

impl Reader {
    /// Takes a line, and hands back the call that ended with it.
    pub(crate) fn line(&mut self, line: &str) -> Option<Call> {
        let (thread, rest) = line.split_once(' ')?;
        let thread = thread.parse().ok()?;
        let (at, text) = rest.trim_start().split_once(' ')?;
        let at = micros(at)?;
        if let Some(resumed) = text.strip_prefix("<... ") {
            let (_, end) = resumed.split_once(" resumed>")?;
            let mut call = self.begun.remove(&thread)?;
            call.text.push_str(end);
            return Some(call);
        }
        // A signal or an end.
        if text.starts_with("--- ") || text.starts_with("+++ ") {
            return None;
        }
        match text.strip_suffix(" <unfinished ...>") {
            // If the thread was in another call, that one never came back: it counts as it began.
            Some(begin) => self.begun.insert(thread, Call::whole(at, begin)),
            None => Some(Call::whole(at, text)),
        }
    }

    /// What had not ended when the trace did.
    pub(crate) fn rest(self) -> impl Iterator<Item = Call> {
        self.begun.into_values()
    }
}

/// Seconds with six decimals.
fn micros(text: &str) -> Option<u64> {
    let (seconds, decimals) = text.split_once('.')?;
    let whole: u64 = seconds.parse().ok()?;
    (decimals.len() == 6).then_some(())?;
    Some(whole * 1_000_000 + decimals.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Call> {
        let mut reader = Reader::default();
        let mut all: Vec<_> = lines.iter().filter_map(|line| reader.line(line)).collect();
        all.extend(reader.rest());
        all
    }

    #[test]
    fn halves_of_a_call_become_one() {
        let all = read(&[
            "4556  1796005961.100000 clone3({flags=CLONE_VM <unfinished ...>",
            "17    1796005961.100001 fsync(4</a>) = 0",
            "4556  1796005961.300000 <... clone3 resumed> => {parent_tid=[9126]}, 88) = 9126",
        ]);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], Call::whole(1_796_005_961_100_001, "fsync(4</a>) = 0"));
        assert_eq!(all[1].at, 1_796_005_961_100_000);
        assert_eq!((all[1].name(), all[1].result()), ("clone3", Some(9126)));
    }

    #[test]
    fn what_never_came_back_is_a_call_and_signals_are_none() {
        let all = read(&[
            "1  2.000000 epoll_wait(5<anon_inode:[eventpoll]>,  <unfinished ...>",
            "1  2.000001 --- SIGCHLD {si_signo=SIGCHLD} ---",
            "1  2.000002 read(3</x>, 0x7f, 8) = -1 EAGAIN (Resource temporarily unavailable)",
            "1  2.000003 +++ exited with 0 +++",
            "2  2.000004 <... restart_syscall resumed>) = 0",
            "2  2.000005 pause( <unfinished ...>",
            "strace: something else",
        ]);
        let names: Vec<_> = all.iter().map(|call| (call.name(), call.result())).collect();
        // The one that ended is told where it ended, the others at the end.
        assert_eq!(names[0], ("read", Some(-1)));
        assert_eq!(names.len(), 3);
        assert!(names[1..].contains(&("epoll_wait", None)), "{names:?}");
        assert!(names[1..].contains(&("pause", None)), "{names:?}");
    }

    #[test]
    fn descriptors_tell_what_they_are_of() {
        let call = |text| Call::whole(0, text);
        assert_eq!(call("fsync(4</var/lib/a b>) = 0").path(), Some("/var/lib/a b"));
        let socket = call(r#"writev(14<socket:[3513159]>, [{iov_base="<", iov_len=1}], 1) = 1"#);
        assert!(socket.on_socket() && socket.path().is_none());
        assert_eq!(call(r#"openat(AT_FDCWD</>, "/x", O_RDONLY) = 3</x>"#).path(), None);
        assert_eq!(call("sync() = 0").path(), None);
        assert_eq!(call("openat(4</a>) = 17</b>").result(), Some(17));
    }

    #[test]
    fn strings_are_read_as_they_were() {
        let call = Call::whole(0, r#"write(1<socket:[1]>, "\0\0%\1?\203\"\\\n0\0003", 10) = 10"#);
        let all: Vec<_> = call.strings().collect();
        assert_eq!(all, [b"\0\0%\x01?\x83\"\\\n0\x003".to_vec()]);
        let two = Call::whole(0, r#"execve("/bin/a", ["b"..., "c"], 0x7f) = 0"#);
        let all: Vec<_> = two.strings().collect();
        assert_eq!(all, [b"/bin/a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    }
}
