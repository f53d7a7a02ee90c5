//! The segment: passes each frame from one port to all others, and does it badly on request.
//!
//! A port is a pair of unix datagram sockets, QEMU's and ours. Frames never leave this process but
//! to those sockets.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::segment::Fault;

/// The largest frame that is passed on; virtio-net may send 64 KiB with offloads on.
const FRAME: usize = 70_000;

/// How many frames wait for machines that do not take them at once, before more are lost.
const QUEUE: usize = 4096;

/// How long until a machine that did not take a frame is offered it again.
const AGAIN: Duration = Duration::from_millis(1);

/// A segment.
#[derive(Debug)]
pub struct Hub {
    dir: PathBuf,
    fault: Arc<Mutex<Fault>>,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// QEMU's and the hub's socket of a port.
pub fn sockets(dir: &Path, port: usize) -> (PathBuf, PathBuf) {
    (dir.join(format!("port{port}.qemu")), dir.join(format!("port{port}.hub")))
}

impl Hub {
    /// A segment with so many ports, whose sockets are in `dir`.
    pub fn start(dir: &Path, ports: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut bound = Vec::new();
        for port in 0..ports {
            let (_, ours) = sockets(dir, port);
            fs::remove_file(&ours).ok();
            let socket =
                UnixDatagram::bind(&ours).with_context(|| format!("bind {}", ours.display()))?;
            socket.set_nonblocking(true)?;
            bound.push((socket, sockets(dir, port).0));
        }
        let (stop, stopped) = UnixStream::pair()?;
        let fault = Arc::new(Mutex::new(Fault::default()));
        let shared = Arc::clone(&fault);
        let thread = std::thread::Builder::new()
            .name("segment".to_owned())
            .spawn(move || pass_frames(&bound, &stopped, &shared))?;
        Ok(Self { dir: dir.to_owned(), fault, stop: Some(stop), thread: Some(thread) })
    }

    /// The directory of its sockets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the segment misbehave in this way, and in no other, from now on.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Dropping our end wakes the thread.
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn pass_frames(ports: &[(UnixDatagram, PathBuf)], stopped: &UnixStream, fault: &Mutex<Fault>) {
    let (mut frame, mut count) = (vec![0; FRAME], 0u64);
    let mut late: BTreeMap<(Instant, u64), (usize, Vec<u8>)> = BTreeMap::new();
    // A port without a machine loses the frame, as a wire does; a socket holds ten only.
    let full = |to: usize, bytes: &[u8]| {
        let sent = ports[to].0.send_to(bytes, &ports[to].1);
        sent.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    };
    loop {
        let wait = late.keys().next().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let timeout = wait.map(|w| Timespec {
            tv_sec: i64::try_from(w.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: w.subsec_nanos().into(),
        });
        let mut fds: Vec<_> = ports.iter().map(|(s, _)| PollFd::new(s, PollFlags::IN)).collect();
        fds.push(PollFd::new(stopped, PollFlags::IN));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if fds.last().is_some_and(|fd| !fd.revents().is_empty()) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let now = fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (from, (socket, _)) in ports.iter().enumerate().filter(|(i, _)| ready[*i]) {
            while let Ok(length) = socket.recv(&mut frame) {
                count += 1;
                if now.drop_every > 0 && count.is_multiple_of(now.drop_every.into()) {
                    continue;
                }
                for to in (0..ports.len()).filter(|to| *to != from && now.passes(from + 1, *to + 1))
                {
                    let at = (Instant::now() + now.delay, count << 8 | to as u64);
                    late.insert(at, (to, frame[..length].to_vec()));
                }
            }
        }
        while let Some(entry) = late.first_entry().filter(|e| e.key().0 <= Instant::now()) {
            let ((_, which), (to, bytes)) = entry.remove_entry();
            if full(to, &bytes) && late.len() < QUEUE {
                late.insert((Instant::now() + AGAIN, which), (to, bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(dir: &Path, port: usize) -> UnixDatagram {
        let (qemu, hub) = sockets(dir, port);
        let socket = UnixDatagram::bind(qemu).expect("bound");
        socket.connect(hub).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        socket
    }

    /// What comes first.
    fn heard(at: &UnixDatagram) -> u8 {
        let mut frame = [0; 10];
        at.recv(&mut frame).expect("a frame comes");
        frame[0]
    }

    #[test]
    fn passes_frames_and_misbehaves_on_request() {
        let dir = tempfile::tempdir().expect("a directory");
        let hub = Hub::start(dir.path(), 3).expect("started");
        let [a, b, c] = [0, 1, 2].map(|port| end(dir.path(), port));
        // Who did not hear a frame hears the next one first.
        a.send(b"1").expect("sent");
        assert_eq!((heard(&b), heard(&c)), (b'1', b'1'), "all others hear it");
        b.send(b"2").expect("sent");
        assert_eq!((heard(&a), heard(&c)), (b'2', b'2'), "nobody hears himself");

        hub.set(Fault { partitions: vec![[1, 2].into()], ..Fault::default() });
        a.send(b"3").expect("sent");
        assert_eq!(heard(&b), b'3');
        hub.set(Fault { cut: [2].into(), ..Fault::default() });
        a.send(b"4").expect("sent");
        assert_eq!(heard(&c), b'4', "the other side has not heard the one before");

        hub.set(Fault { drop_every: 2, ..Fault::default() });
        for frame in [b"5", b"6", b"7"] {
            a.send(frame).expect("sent");
        }
        assert_eq!(
            (heard(&b), heard(&b)),
            (b'5', b'7'),
            "nor who was cut off; each second is lost"
        );

        hub.set(Fault { delay: Duration::from_millis(50), ..Fault::default() });
        let begun = Instant::now();
        a.send(b"8").expect("sent");
        assert_eq!(heard(&b), b'8');
        assert!(begun.elapsed() >= Duration::from_millis(50));

        hub.set(Fault::default());
        for _ in 0..100 {
            a.send(b"9").expect("sent");
        }
        assert!((0..100).all(|_| heard(&b) == b'9'), "who takes them slowly gets them all");
    }
}
