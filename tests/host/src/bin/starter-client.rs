//! Asks the starter of containers, for tests of who may ask it for what.
//!
//! `starter-client SOCKET WORDS`: sends the words as the packet, and with them its own standard input and
//! output; whoever is started has them then. `starter-client SOCKET`: says nothing until it is sent away.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use ves_host::channel;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let (socket, words) = match args.as_slice() {
        [socket, words] => (socket, Some(words)),
        [socket] => (socket, None),
        _ => return ExitCode::from(64),
    };
    let Ok(Some(starter)) = channel::connect(Path::new(socket)) else { return ExitCode::FAILURE };
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    // It may be sent away before it has said anything.
    if let Some(words) = words {
        channel::send(&starter, words.as_bytes(), &[stdin.as_fd(), stdout.as_fd()]).ok();
    }
    // It is looked at, and must be there, until it has been served or sent away.
    channel::receive(&starter).ok();
    ExitCode::SUCCESS
}
