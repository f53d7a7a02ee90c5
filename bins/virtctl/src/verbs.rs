//! What each verb does: one call of the API and how its answer looks.
//!
//! Owns which function a verb is and what all of them work with. Never here: the command line, the
//! beginning and the end of the program.

mod access;
mod change;
mod events;
mod inside;
mod list;
mod node;
mod operation;
mod resources;
mod snapshot;
mod template;
mod top;
mod update;
mod watch;

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::cli::{Cli, Verb};
use crate::completion;
use crate::connect::Coordinator;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::unbuilt::not_built;

/// What a verb works with.
pub(crate) struct Context {
    /// Who is asked.
    pub(crate) coordinator: Coordinator,
    /// How to answer.
    pub(crate) output: Output,
    /// Field names given as `-o A,B`.
    pub(crate) fields: Vec<String>,
}

impl Context {
    /// Does what a verb says.
    pub(crate) async fn verb(self, verb: Verb) -> Outcome {
        match verb {
            Verb::Template(verb) => self.template(verb).await,
            Verb::Create(args) => self.create(*args).await,
            Verb::Set(args) => self.set(*args).await,
            Verb::Start(args) => self.start(args).await,
            Verb::Stop(args) => self.stop(args).await,
            Verb::Restart(args) => self.restart(args).await,
            Verb::Destroy(change) => self.destroy(change).await,
            Verb::Mount(change) => self.mount(change).await,
            Verb::Umount(change) => self.umount(change).await,
            Verb::Fsck(change) => self.fsck(change).await,
            Verb::Status(one) => self.status(&one.ct).await,
            Verb::Enter(args) => self.enter(args).await,
            Verb::Exec(args) => self.exec(args, false).await,
            Verb::Exec2(args) => self.exec(args, true).await,
            Verb::Runscript(args) => self.runscript(args).await,
            Verb::Snapshot(args) => self.snapshot(args).await,
            Verb::SnapshotList(args) => self.snapshot_list(args).await,
            Verb::SnapshotSwitch(args) => self.snapshot_switch(args).await,
            Verb::SnapshotDelete(args) => self.snapshot_delete(args).await,
            Verb::Console(args) => self.console(args).await,
            Verb::List(args) => self.list(args).await,
            Verb::Top(args) => self.top(args).await,
            Verb::Resources(args) => self.resources(args).await,
            Verb::Watch(args) => self.watch(args).await,
            Verb::Events(args) => self.events(args).await,
            Verb::Operation(verb) => self.operation(verb).await,
            Verb::Node(verb) => self.node(verb).await,
            Verb::Context(verb) => context(verb, self.output, self.fields),
            Verb::Completion { shell } => complete(shell, self.output),
            Verb::Man { dir } => man(&dir),
            Verb::Unbuilt(unbuilt) => Err(not_built(unbuilt.name()).into()),
        }
    }
}

pub(crate) use access::{cert, context, init_ca};

/// Prints the completion of a shell; needs no coordinator.
pub(crate) fn complete(shell: clap_complete::Shell, output: Output) -> Outcome {
    output.print(&completion::script(shell))
}

/// Writes the man pages; needs no coordinator.
pub(crate) fn man(dir: &std::path::Path) -> Outcome {
    let wrong = |e: std::io::Error| Failure::local(&format!("cannot write {}", dir.display()), &e);
    std::fs::create_dir_all(dir).map_err(wrong)?;
    crate::man::write(Cli::command(), dir).map_err(wrong)?;
    writeln!(std::io::stderr(), "man pages are in {}", dir.display()).ok(); // only to be friendly
    Ok(())
}
