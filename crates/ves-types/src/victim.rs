//! A process that the kernel killed because memory ran out, by the name it had.

use std::fmt;

/// The longest name: the kernel keeps fifteen bytes of one, and shows each that is none to be shown by four.
const LONGEST: usize = 60;

/// A process that was killed. Whoever runs in a container chooses its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    name: String,
    pid: u32,
}

impl Victim {
    /// One of this name and process id on the node. Of the name stays what any terminal shows as itself.
    pub fn new(name: &str, pid: u32) -> Self {
        let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        Self { name: name.chars().take(LONGEST).map(plain).collect(), pid }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id on the node.
    pub const fn pid(&self) -> u32 {
        self.pid
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_line_of_plain_characters() {
        assert_eq!(Victim::new("redis-server", 812).to_string(), "redis-server (pid 812)");
        let hostile = Victim::new("a b\x1b[2J\n\u{202e}\u{7f}é", 1);
        assert_eq!(hostile.name(), "a b?[2J????");
        assert_eq!(Victim::new(&"x".repeat(1000), 1).name().len(), LONGEST);
    }
}
