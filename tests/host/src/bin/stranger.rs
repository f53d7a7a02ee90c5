//! Somebody without any right who does not leave the public socket alone, for tests of whom that hinders.
//!
//! `stranger MODE SOCKET COUNT`, until it is killed: holds so many connections, and makes new ones for those that
//! are closed. In the mode `idle` they say nothing, in `half` they begin an HTTP/2 connection that never becomes
//! one, in `flood` they call what is not theirs and what is not there, as fast as they can. Says `held` and a number
//! when it has tried to make all of them.
#![allow(clippy::print_stdout, reason = "it is there to tell")]
#![allow(clippy::disallowed_methods, reason = "a stranger has its own pace")]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A frame of settings without any.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// How many connections that were closed are made again in a hundredth of a second.
const AGAIN: usize = 10;
/// How many calls are written at once.
const CALLS: u32 = 50;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().unwrap_or_default();
    let (mode, socket, count) = (next(), next(), next());
    match run(&mode, &socket, count.parse().unwrap_or(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(mode: &str, socket: &str, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut held: Vec<Option<UnixStream>> = std::iter::repeat_with(|| None).take(count).collect();
    let (mut stream_id, mut told) = (1, false);
    loop {
        let mut again = if told { AGAIN } else { count };
        for place in &mut held {
            let Some(stream) = place else {
                if again > 0 {
                    again -= 1;
                    *place = connect(mode, socket);
                }
                continue;
            };
            let goes_on = match mode {
                "flood" => flood(stream, &mut stream_id),
                _ => is_open(stream),
            };
            if !goes_on {
                *place = None;
            }
        }
        if !told {
            told = true;
            println!("held {}", held.iter().flatten().count());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn connect(mode: &str, socket: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let begin = match mode {
        "half" => PREFACE.split_at(16).0.to_vec(),
        "flood" => [PREFACE, &SETTINGS].concat(),
        _ => Vec::new(),
    };
    stream.write_all(&begin).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

fn is_open(stream: &mut UnixStream) -> bool {
    let mut some = [0; 4096];
    loop {
        match stream.read(&mut some) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Calls without waiting for answers; every other call is none that there is.
fn flood(stream: &mut UnixStream, stream_id: &mut u32) -> bool {
    let mut frames = Vec::new();
    for n in 0..CALLS {
        *stream_id = stream_id.wrapping_add(2) & 0x7fff_ffff;
        let path = match n % 2 {
            0 => "/ves.api.v1.ContainerService/ListContainers".to_owned(),
            _ => format!("/grpc.health.v1.Health/x{stream_id}"),
        };
        frames.extend(call(&path, *stream_id));
    }
    match stream.write(&frames) {
        // A frame that was cut makes what follows nonsense, which ends the connection.
        Ok(written) => written == frames.len() && is_open(stream),
        Err(e) => e.kind() == ErrorKind::WouldBlock && is_open(stream),
    }
}

/// The frame of one request without a message.
fn call(path: &str, stream_id: u32) -> Vec<u8> {
    // By HPACK's table: POST, http; then a path, an authority, a content type and a name of our own.
    let mut block = vec![0x83, 0x86];
    let mut text = |prefix: &[u8], value: &str| {
        block.extend_from_slice(prefix);
        block.push(u8::try_from(value.len()).unwrap_or(0x7f));
        block.extend_from_slice(value.as_bytes());
    };
    text(&[0x04], path);
    text(&[0x01], "ves");
    text(&[0x0f, 0x10], "application/grpc");
    text(&[0x00, 2, b't', b'e'], "trailers");
    let length = u32::try_from(block.len()).unwrap_or(0).to_be_bytes();
    let [_, high, middle, low] = length;
    // HEADERS, whole and the last of its stream.
    let mut frame = vec![high, middle, low, 1, 0x05];
    frame.extend(stream_id.to_be_bytes());
    frame.extend(block);
    frame
}
