//! The smallest HTTP client that can tell whether a web server answers.
//!
//! One GET over one TCP connection, with a deadline. No names, no redirects, no encryption.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// The most of an answer that is read.
const MOST: u64 = 1 << 20;

/// Asks `http://address/` once and hands back the body of an answer with status 200.
pub fn get(address: IpAddr, patience: Duration) -> anyhow::Result<String> {
    let end = Instant::now() + patience;
    let left = || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let to = SocketAddr::new(address, 80);
    let mut stream =
        TcpStream::connect_timeout(&to, left()).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    stream.set_write_timeout(Some(left())).context("set a time limit")?;
    let host = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    write!(stream, "GET / HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .with_context(|| format!("ask {to}"))?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left())).context("set a time limit")?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(piece.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).with_context(|| format!("read the answer of {to}")),
        }
        ensure!(answer.len() as u64 <= MOST, "{to} does not stop answering");
        ensure!(Instant::now() < end, "{to} answers too slowly");
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or("nothing");
    if status != "200" {
        bail!("{to} answers with status {status}");
    }
    Ok(body.to_owned())
}

/// Asks again and again until there is an answer, every 2 milliseconds.
pub fn get_within(address: IpAddr, patience: Duration) -> anyhow::Result<String> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match get(address, left.clamp(Duration::from_millis(1), Duration::from_secs(2))) {
            Err(e) if Instant::now() >= end => {
                return Err(e.context(format!("no answer within {} s", patience.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
            answered => return answered,
        }
    }
}
