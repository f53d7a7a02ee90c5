//! The man pages: what clap knows of each verb, and examples.
//!
//! Never here: what an example says, or the grammar.

mod examples;

use std::io::{self, Write as _};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use roff::{Roff, roman};

use examples::Example;

/// Writes a page of each verb into a directory.
pub(crate) fn write(mut command: Command, dir: &Path) -> io::Result<()> {
    command = command.disable_help_subcommand(true);
    command.build();
    write_all(&command, dir)
}

fn write_all(command: &Command, dir: &Path) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        write_all(inner, dir)?;
    }
    let man = Man::new(command.clone());
    let mut page = std::fs::File::create(dir.join(man.get_filename()))?;
    man.render(&mut page)?;
    let examples = examples::of(&words(command));
    if !examples.is_empty() {
        render(&examples).to_writer(&mut page)?;
    }
    page.flush()
}

/// The words by which a verb is called, without the program's name.
fn words(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_default();
    name.split_once(' ').map_or("", |(_, words)| words).to_owned()
}

fn render(examples: &[&Example]) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXAMPLES"]);
    for Example { verb: _, what, lines } in examples {
        section.control("PP", []);
        section.text([roman(format!("{what}:"))]);
        section.control("PP", []);
        section.control("RS", ["4"]).control("nf", []);
        for line in *lines {
            section.text([roman(*line)]);
        }
        section.control("fi", []).control("RE", []);
    }
    section
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// The mark of a line that is typed; others are what it answers.
    const PROMPT: &str = "# ";

    /// The verbs that are built and have none below them, by their words.
    fn verbs(command: &Command, found: &mut Vec<String>) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let mut inner = command.get_subcommands().filter(|c| !c.is_hide_set()).peekable();
        if inner.peek().is_none() && !about.contains("not built yet") {
            found.push(words(command));
        }
        inner.for_each(|c| verbs(c, found));
    }

    /// The commands of virtctl in a line that is typed, as a shell hands them over.
    fn commands(line: &str) -> Vec<Vec<OsString>> {
        let words = shlex::split(line).expect("a shell reads it");
        let parts = words.split(|word| ["|", "&&"].contains(&word.as_str()));
        let of_virtctl = parts.filter(|part| part.first().is_some_and(|word| word == "virtctl"));
        let redirects = |word: &&String| word.starts_with(['<', '>']);
        of_virtctl
            .map(|part| {
                part.iter().take_while(|word| !redirects(word)).map(OsString::from).collect()
            })
            .collect()
    }

    #[test]
    fn each_verb_has_an_example_and_each_example_is_read() {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut all = Vec::new();
        verbs(&command, &mut all);
        assert!(all.len() > 30 && all.contains(&"template import".to_owned()), "{all:?}");
        for verb in &all {
            let examples = examples::of(verb);
            assert!(!examples.is_empty(), "{verb} has no example");
            for Example { what, lines, .. } in examples {
                let typed: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix(PROMPT)).collect();
                let read: Vec<_> = typed.iter().flat_map(|line| commands(line)).collect();
                assert!(!read.is_empty(), "{verb}: {what}");
                for words in &read {
                    Cli::read(words).unwrap_or_else(|e| panic!("{verb}: {words:?}: {e}"));
                }
                let says = |words: &Vec<OsString>| {
                    let said: Vec<_> = words.iter().skip(1).map(|w| w.to_string_lossy()).collect();
                    said.join(" ").starts_with(verb)
                };
                assert!(read.iter().any(says), "{verb}: {what} is about another");
            }
        }
        let known = |example: &Example| all.iter().any(|verb| verb == example.verb);
        assert!(examples::ALL.iter().all(known), "an example is of no verb");
    }

    #[test]
    fn a_page_has_its_examples() {
        let dir = tempfile::tempdir().expect("a directory");
        write(Cli::command(), dir.path()).expect("written");
        let page = std::fs::read_to_string(dir.path().join("virtctl-set.1")).expect("there");
        let (_, examples) = page.split_once(".SH EXAMPLES\n").expect("a section");
        assert!(examples.contains("# virtctl set 101 \\-\\-ram 1G"), "{examples}");
    }
}
