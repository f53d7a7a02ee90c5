//! A client of a monitor, and what it is here for.
//!
//! Never here: what it is answered.

use crate::framed_conn::FramedConn;

/// What a client is here for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It has asked nothing yet.
    New,
    /// It is told of changes.
    Follower,
    /// It looks at the console.
    Console,
    /// It gets the scroll-back, then the end.
    Scrollback,
    /// It gets what is queued, then the end.
    Leaving,
    /// It is closed now.
    Dropped,
}

/// One that is connected.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) conn: FramedConn,
    pub(super) role: Role,
}
