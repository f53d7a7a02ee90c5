//! What others change in a table, as the kernel tells it.
//!
//! Never here: what is done about it.

use std::time::{Duration, Instant};

use super::SUBSYSTEM;
use crate::error::HostError;
use crate::netlink::{Event, Protocol, Socket, attributes};

/// `NFNLGRP_NFTABLES`.
const GROUP: i32 = 7;
/// `NFT_MSG_NEWGEN`: that a transaction ended, which says nothing of a table.
const NEW_GENERATION: u16 = SUBSYSTEM | 15;

/// Tells when somebody else changes a table.
#[derive(Debug)]
pub struct NftNews {
    socket: Socket,
    table: String,
}

impl NftNews {
    /// Listens from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn of(table: &str) -> Result<Self, HostError> {
        let socket = Socket::listening(Protocol::Netfilter, GROUP)?;
        Ok(Self { socket, table: table.to_owned() })
    }

    /// Waits until the table was changed by another socket than `ours`, or so long. Answers whether it
    /// was; so it does where changes were missed, which happens when there are too many at once.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn wait(&mut self, ours: u32, patience: Duration) -> Result<bool, HostError> {
        let Self { socket, table } = self;
        let theirs = |event: Event<'_>| event.port != ours && concerns(&event, table);
        socket.await_event(Instant::now() + patience, "wait for changes of nf_tables", theirs)
    }
}

fn concerns(event: &Event<'_>, table: &str) -> bool {
    // All messages about what is in a table begin with its name.
    let named = || attributes(event.payload.get(4..).unwrap_or_default()).find(|a| a.kind == 1);
    event.kind != NEW_GENERATION && named().is_some_and(|name| name.text() == table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Message;

    #[test]
    fn only_what_is_in_the_table_concerns_it() {
        let about = |kind: u16, name: &str| {
            let mut message = Message::new(SUBSYSTEM | kind, 0, &super::super::INET);
            message.attr_text(1, name);
            concerns(&Event { kind: SUBSYSTEM | kind, port: 1, payload: message.payload() }, "ves")
        };
        for kind in [0, 2, 5, 8, 14] {
            assert!(about(kind, "ves") && !about(kind, "vest") && !about(kind, "filter"));
        }
        assert!(!about(15, "ves"), "the end of a transaction");
        let event = Event { kind: SUBSYSTEM, port: 1, payload: &[1] };
        assert!(!concerns(&event, "ves"), "cut short");
    }
}
