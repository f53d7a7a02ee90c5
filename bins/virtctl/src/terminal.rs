//! The caller's terminal: raw mode that is always given back, its size, and the sequences by which
//! one leaves a console.
//!
//! Never here: a session.

use std::io::IsTerminal as _;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use ves_proto::api::WindowSize;

use crate::failure::Failure;

/// Raw mode of stdin; dropped, the terminal is as it was.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes stdin raw, if it is a terminal.
    pub(crate) fn enter() -> Result<Option<Self>, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        let wrong = |e: rustix::io::Errno| {
            Failure::local("cannot change the mode of the terminal", &e.into())
        };
        let before = tcgetattr(std::io::stdin()).map_err(wrong)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw).map_err(wrong)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before).ok();
    }
}

/// The size of the terminal at stdin or stdout; one nobody knows is 24 by 80.
pub(crate) fn size() -> WindowSize {
    let known = tcgetwinsize(std::io::stdin())
        .or_else(|_| tcgetwinsize(std::io::stdout()))
        .ok()
        .filter(|s| s.ws_row > 0 && s.ws_col > 0);
    known.map_or(WindowSize { rows: 24, cols: 80 }, |s| WindowSize {
        rows: u32::from(s.ws_row),
        cols: u32::from(s.ws_col),
    })
}

/// Finds the sequences that leave a console in what is typed: Ctrl-] anywhere; `~.` or `Esc .` at
/// the beginning of a line. `~~` there is one `~`.
#[derive(Debug)]
pub(crate) struct Escape {
    /// Nothing was typed since the last Enter.
    line_start: bool,
    /// A byte that may begin a sequence, kept back until the next.
    held: Option<u8>,
}

impl Default for Escape {
    fn default() -> Self {
        Self { line_start: true, held: None }
    }
}

impl Escape {
    const GROUP_SEPARATOR: u8 = 0x1d; // Ctrl-]
    const ESC: u8 = 0x1b;

    /// What of `typed` is to be sent, and whether the user leaves.
    pub(crate) fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut send = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            if byte == Self::GROUP_SEPARATOR {
                return (send, true);
            }
            if let Some(first) = self.held.take() {
                match byte {
                    b'.' => return (send, true),
                    b'~' if first == b'~' => {
                        send.push(b'~');
                        continue;
                    }
                    _ => send.push(first),
                }
            } else if self.line_start && (byte == b'~' || byte == Self::ESC) {
                self.held = Some(byte);
                self.line_start = false;
                continue;
            }
            send.push(byte);
            self.line_start = byte == b'\r' || byte == b'\n';
        }
        (send, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(pieces: &[&str]) -> (String, bool) {
        let mut escape = Escape::default();
        let mut all = Vec::new();
        for piece in pieces {
            let (send, leave) = escape.feed(piece.as_bytes());
            all.extend(send);
            if leave {
                return (String::from_utf8(all).expect("text"), true);
            }
        }
        (String::from_utf8(all).expect("text"), false)
    }

    #[test]
    fn sequences_that_leave() {
        assert_eq!(feed(&["~."]), (String::new(), true));
        assert_eq!(feed(&["ls\r~", ".more"]), ("ls\r".into(), true));
        assert_eq!(feed(&["\u{1b}."]), (String::new(), true));
        assert_eq!(feed(&["ab\u{1d}cd"]), ("ab".into(), true));
    }

    #[test]
    fn what_looks_alike_is_sent() {
        for (pieces, sent) in [
            (&["a~."][..], "a~."),
            (&["~~."], "~."),
            (&["~a"], "~a"),
            (&["~\r~a"], "~\r~a"),
            (&["\u{1b}[A\r\u{1b}OB"], "\u{1b}[A\r\u{1b}OB"),
            (&["1.2\r.\r"], "1.2\r.\r"),
        ] {
            assert_eq!(feed(pieces), (sent.to_owned(), false), "{pieces:?}");
        }
    }
}
