//! What `/proc/PID/status` and `/proc/PID/stat` tell of a process. Pure: who reads them reads those of the
//! node, never a container's. A name in them may hold anything but a line break, blanks and parentheses too.

/// A field of a `status`.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut values = status.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    values.next().map(str::trim)
}

/// Whether a field of a `status` that is a mask has this signal.
pub fn masks(status: &str, name: &str, signal: u32) -> bool {
    let bit = signal.checked_sub(1).and_then(|n| 1_u64.checked_shl(n)).unwrap_or_default();
    let mask = field(status, name).and_then(|mask| u64::from_str_radix(mask, 16).ok());
    mask.is_some_and(|mask| mask & bit != 0)
}

/// Whether a process hears a signal: it has a handler for it, or blocks it and so reads it when it likes.
/// The first process of a namespace never gets any other.
pub fn hears(status: &str, signal: u32) -> bool {
    ["SigCgt", "SigBlk"].iter().any(|name| masks(status, name, signal))
}

/// The fields of a `stat` after the name; the first, its state, is the third of all.
fn after_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

/// When a process started, in ticks since boot, by its `stat`.
pub fn start_ticks(stat: &str) -> Option<u64> {
    after_name(stat)?.nth(19)?.parse().ok()
}

/// The session that a process which lives is in, by its `stat`.
pub fn session(stat: &str) -> Option<u32> {
    let mut fields = after_name(stat)?;
    let lives = !fields.next()?.starts_with(['Z', 'X']);
    fields.nth(2)?.parse().ok().filter(|_| lives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_a_signal() {
        // systemd blocks those it reads; busybox has handlers; one that has just begun neither.
        let masks = |blocked, caught| format!("SigBlk:\t{blocked:016x}\nSigCgt:\t{caught:016x}\n");
        for (text, hears_term, hears_halt) in [
            (masks(0, 0), false, false),
            (masks(1 << 36, 0), false, true),
            (masks(0, 1 << 14 | 1 << 36), true, true),
            ("SigIgn:\tffffffffffffffff\n".to_owned(), false, false),
            ("Name:\tSigCgt:\tffffffffffffffff\n".to_owned(), false, false),
        ] {
            assert_eq!((hears(&text, 15), hears(&text, 37)), (hears_term, hears_halt), "{text}");
        }
        assert!(!hears(&masks(u64::MAX, u64::MAX), 0) && !hears(&masks(u64::MAX, 0), 65));
    }

    #[test]
    fn numbers_whatever_the_name() {
        let stat = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 6 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1")
        };
        for name in ["a", "a) b (c)", ") S 9 9 9", ""] {
            assert_eq!(start_ticks(&stat(name, "S")), Some(4242), "{name}");
            assert_eq!(session(&stat(name, "S")), Some(5), "{name}");
            assert_eq!(session(&stat(name, "Z")), None, "the dead are in none");
        }
        assert_eq!(
            (start_ticks("7 (a"), session("7 (a"), session("7 (a) S 1")),
            (None, None, None)
        );
    }
}
