//! The coordinator's way to the receiver of telemetry, lent to daemons that have no network.
//!
//! They write to a unix socket; each connection is one to the receiver. Only bytes pass: nothing here
//! understands what a privileged daemon reports, or answers it. Who may write is told by the
//! credentials the kernel attached to the connection.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::unix::UCred;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_stream::StreamExt;

use ves_types::layout::Daemon;

use crate::accept::{Acceptor, Connection};
use crate::principal::Role;
use crate::refusals::Refusals;
use crate::telemetry::Receiver;

/// Binds the socket and relays until the runtime ends. One that an earlier daemon left is replaced;
/// the caller sees to it that no other lives. Must be called inside a tokio runtime.
pub(crate) fn begin(socket: &Path, receiver: Receiver) -> Result<(), std::io::Error> {
    let listener = crate::socket::replace(socket)?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    // Anybody may connect, as at the public socket: the services have no group that lets them. Who is
    // none of them is closed at once.
    std::fs::set_permissions(socket, Permissions::from_mode(0o666))?;
    let (own, daemons) = (nix::unistd::geteuid().as_raw(), accounts());
    let role = move |peer: &UCred| reporter(peer.uid(), own, &daemons);
    let mut connections = Acceptor::new(listener, false, Refusals::new().into(), role)?;
    let receiver = Arc::new(receiver);
    tokio::spawn(async move {
        while let Some(Ok(near)) = connections.next().await {
            let receiver = Arc::clone(&receiver);
            tokio::spawn(async move {
                // The sender notices the end of its connection and tries again.
                if let Err(error) = connect(near, &receiver).await {
                    tracing::debug!(%error, %receiver, "telemetry is not relayed");
                }
            });
        }
    });
    Ok(())
}

/// Who may report: root, our own, and the accounts of the daemons, of whom none takes all there is.
fn reporter(uid: u32, own: u32, daemons: &BTreeSet<u32>) -> Role {
    if uid == 0 || uid == own {
        Role::Root
    } else if daemons.contains(&uid) {
        Role::Operator
    } else {
        Role::Other
    }
}

/// The accounts of the daemons.
fn accounts() -> BTreeSet<u32> {
    let uid = |daemon: Daemon| nix::unistd::User::from_name(daemon.user()).ok().flatten();
    Daemon::ALL.into_iter().filter_map(uid).map(|user| user.uid.as_raw()).collect()
}

async fn connect(near: Connection, receiver: &Receiver) -> Result<(), std::io::Error> {
    // What follows is the receiver's to judge.
    near.caller().note_call();
    match receiver {
        Receiver::Net { host, port } => {
            let far = TcpStream::connect((host.as_str(), *port)).await?;
            far.set_nodelay(true)?;
            pass(near, far).await
        }
        Receiver::Unix(path) => pass(near, UnixStream::connect(path).await?).await,
    }
}

async fn pass(
    mut near: Connection,
    mut far: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), std::io::Error> {
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_a_receiver_that_is_away_ends_the_connection() {
        let dir = tempfile::tempdir().expect("a directory");
        let (near, far) = (dir.path().join("near"), dir.path().join("far"));
        std::fs::write(&near, "left over").expect("written");
        begin(&near, Receiver::Unix(far.clone())).expect("bound");
        let mut early = UnixStream::connect(&near).await.expect("taken");
        assert_eq!(early.read(&mut [0; 8]).await.expect("closed"), 0, "nobody is there");

        let receiver = UnixListener::bind(&far).expect("bound");
        let mut sender = UnixStream::connect(&near).await.expect("taken");
        sender.write_all(b"spans").await.expect("written");
        let (mut got, _) = receiver.accept().await.expect("connected");
        let mut bytes = [0; 5];
        got.read_exact(&mut bytes).await.expect("passed on");
        assert_eq!(&bytes, b"spans");
        got.write_all(b"thanks").await.expect("written");
        drop(got);
        let mut answer = String::new();
        sender.read_to_string(&mut answer).await.expect("passed back");
        assert_eq!(answer, "thanks");
    }

    #[test]
    fn strangers_are_refused() {
        let role = |uid| reporter(uid, 600, &BTreeSet::from([601, 602]));
        assert_eq!([0, 600].map(role), [Role::Root; 2]);
        assert_eq!([601, 602].map(role), [Role::Operator; 2]);
        assert_eq!(role(1000), Role::Other);
    }
}
