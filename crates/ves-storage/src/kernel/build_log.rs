//! What a build of a template said, and where that is kept when it failed: bounded in size, number and age.
//!
//! Never here: what of it is the cause, which is read in [`crate::observe`].

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ves_host::{Attempt, HostError, file};
use ves_types::TemplateName;

/// What is kept of a build's words: so much of their beginning and their end, in bytes.
const KEPT: usize = 512 << 10;
/// How many logs are kept, and for how long.
const MOST: usize = 16;
const AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// What a build said so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    begin: Vec<u8>,
    end: Vec<u8>,
    left_out: bool,
}

impl Said {
    /// Takes a line.
    pub(super) fn push(&mut self, line: &[u8]) {
        let room = if self.end.is_empty() { KEPT.saturating_sub(self.begin.len()) } else { 0 };
        let (first, rest) = line.split_at(line.len().min(room));
        self.begin.extend(first);
        self.end.extend(rest);
        if self.end.len() > 2 * KEPT {
            self.end.drain(..self.end.len() - KEPT);
            self.left_out = true;
        }
    }

    /// All of it; where the middle is left out, that is said.
    pub(super) fn text(&self) -> String {
        let middle: &[u8] = if self.left_out { b"\n[ ... ]\n" } else { b"" };
        let bytes = [&self.begin, middle, &self.end].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The logs of failed builds, one a template.
#[derive(Debug, Clone)]
pub(super) struct BuildLogs {
    dir: PathBuf,
}

impl BuildLogs {
    /// Those in a directory that is made when there is one.
    pub(super) fn in_dir(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps what a build said; answers where.
    pub(super) fn keep(&self, name: &TemplateName, text: &str) -> Result<PathBuf, HostError> {
        match std::fs::create_dir(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.attempt(|| format!("make {}", self.dir.display()))?,
        }
        let path = self.dir.join(format!("{name}.log"));
        file::write_atomic(&path, text.as_bytes())?;
        self.sweep()?;
        Ok(path)
    }

    /// Removes what is too old or too many.
    pub(super) fn sweep(&self) -> Result<(), HostError> {
        let now = SystemTime::now();
        let mut logs = Vec::new();
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if let Ok(meta) = entry.metadata() {
                let age = meta.modified().ok().and_then(|at| now.duration_since(at).ok());
                logs.push((age.unwrap_or_default(), entry.path()));
            }
        }
        expired(logs).iter().try_for_each(|path| file::remove_if_exists(path))
    }
}

/// Those that go, of logs with their ages.
fn expired(mut logs: Vec<(Duration, PathBuf)>) -> Vec<PathBuf> {
    logs.retain(|(_, path)| path.extension() == Some("log".as_ref()));
    logs.sort();
    let (young, old): (Vec<_>, Vec<_>) = logs.into_iter().partition(|(age, _)| *age <= AGE);
    let gone = old.into_iter().chain(young.into_iter().skip(MOST));
    gone.map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        let mut said = Said::default();
        said.push(b"first\n");
        for _ in 0..200_000 {
            said.push(b"0123456789abcdef\n");
        }
        said.push(b"last\n");
        let text = said.text();
        assert!(text.len() <= 3 * KEPT + 16, "{}", text.len());
        assert!(text.starts_with("first\n0123") && text.ends_with("def\nlast\n"));
        assert_eq!(text.matches("[ ... ]").count(), 1);
        let mut short = Said::default();
        short.push(b"one\n");
        short.push(b"\xff\n");
        assert_eq!(short.text(), "one\n\u{fffd}\n");
    }

    #[test]
    fn logs_are_few_and_young() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = BuildLogs::in_dir(dir.path().join("builds"));
        for n in 0..MOST + 4 {
            let name = format!("t{n}").parse().expect("a name");
            let path = logs.keep(&name, "said").expect("kept");
            assert_eq!(std::fs::read_to_string(path).expect("there"), "said");
        }
        let count = || std::fs::read_dir(dir.path().join("builds")).expect("there").count();
        assert_eq!(count(), MOST);
        let day = Duration::from_secs(24 * 3600);
        let log = |days: u32, name: &str| (day * days, PathBuf::from(name));
        let gone = expired(vec![log(15, "a.log"), log(13, "b.log"), log(99, "other")]);
        assert_eq!(gone, [PathBuf::from("a.log")]);
    }
}
