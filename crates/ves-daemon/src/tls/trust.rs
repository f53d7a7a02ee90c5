//! The files as they are now: read again when they change, kept as they were while new ones are no good, and
//! their end told of before it comes.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use opentelemetry::{KeyValue, global};
use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use ves_proto::fault::chain;
use ves_proto::{Fault, Reason};

use super::Certificates;
use super::certificate::Presented;
use super::files::{self, Loaded, PkiError};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// How long before their end certificates are told of, the last first.
const WARN: [Duration; 4] = [Duration::ZERO, days(1), days(7), days(30)];

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 60 * 60)
}

/// Whom we trust, now.
#[derive(Debug)]
pub(crate) struct Trust {
    dir: PathBuf,
    tokens: bool,
    now: RwLock<Option<Arc<Loaded>>>,
}

/// The files as they were when they were read.
type Seen = Vec<Option<(SystemTime, u64, u64)>>;

impl Trust {
    /// By the files in `dir`, which are not read yet. Where `tokens` count, a client need not have a
    /// certificate.
    pub(crate) fn new(dir: PathBuf, tokens: bool) -> Self {
        Self { dir, tokens, now: RwLock::default() }
    }

    /// Reads the files; where something is wrong with them, what was read before is kept. Blocks.
    pub(crate) fn load(&self) -> Result<(), PkiError> {
        let loaded = files::load(&self.dir, self.tokens)?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(loaded));
        Ok(())
    }

    fn now(&self) -> Option<Arc<Loaded>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How a connection is begun; nothing until the files were good once.
    pub(crate) fn terms(&self) -> Option<Terms> {
        self.now().map(Terms)
    }

    fn seen(&self) -> Seen {
        use std::os::unix::fs::MetadataExt;
        let of = |name| {
            let meta = fs::metadata(self.dir.join(name)).ok()?;
            Some((meta.modified().ok()?, meta.len(), meta.ino()))
        };
        files::FILES.into_iter().map(of).collect()
    }

    /// How long each of our own certificates goes on, in seconds.
    fn left(&self, now: SystemTime) -> Vec<(&'static str, i64)> {
        let Some(loaded) = self.now() else { return vec![] };
        loaded.ends.iter().map(|(name, end)| (*name, seconds_until(*end, now))).collect()
    }
}

fn seconds_until(end: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => seconds(left),
        Err(over) => -seconds(over.duration()),
    }
}

/// A client's certificate, judged again when that may have another outcome.
#[derive(Debug)]
pub(crate) struct Judged {
    presented: Presented,
    trust: Arc<Trust>,
    /// By what it was judged last, and how.
    last: Mutex<(Arc<Loaded>, bool)>,
}

/// Those on which a handshake is made.
#[derive(Debug, Clone)]
pub(crate) struct Terms(Arc<Loaded>);

impl Terms {
    /// For the handshake.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.config)
    }

    /// What a client has shown in a handshake on these terms, which judged it well.
    pub(crate) fn judged(self, presented: Presented, trust: Arc<Trust>) -> Judged {
        Judged { presented, trust, last: Mutex::new((self.0, true)) }
    }
}

impl Judged {
    /// Who has it.
    pub(crate) const fn presented(&self) -> &Presented {
        &self.presented
    }

    /// Refuses it where it has ended, or was revoked, or its authority is trusted no more.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let now = SystemTime::now();
        let refused =
            |why, message| Err(Fault::new(Reason::Unauthenticated, message).fact("why", why));
        if self.presented.ends < now {
            return refused(
                "expired",
                "the client's certificate has expired; have a new one issued",
            );
        }
        let Some(loaded) = self.trust.now() else { return Ok(()) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&last.0, &loaded) {
            let good = match self.presented.chain.split_first() {
                Some((leaf, rest)) => {
                    loaded.verifier.verify_client_cert(leaf, rest, UnixTime::now()).is_ok()
                }
                None => false,
            };
            *last = (loaded, good);
        }
        if last.1 {
            return Ok(());
        }
        refused(
            "revoked",
            "the client's certificate was revoked, or its authority is trusted no more",
        )
    }
}

/// Follows the files for ever, and tells of their ends, in the log and to whoever is to be told.
pub(crate) async fn follow(trust: Arc<Trust>, told_to: Option<Arc<dyn Certificates>>) {
    let told = Arc::clone(&trust);
    // Lives as long as its meter.
    let _gauge = global::meter("ves")
        .i64_observable_gauge("ves.certificate.expiry")
        .with_unit("s")
        .with_description("how long the certificates of the public API go on")
        .with_callback(move |gauge| {
            for (name, left) in told.left(SystemTime::now()) {
                gauge.observe(left, &[KeyValue::new("ves.certificate", name)]);
            }
        })
        .build();
    let mut follower = Follower::default();
    loop {
        let (own, to) = (Arc::clone(&trust), told_to.clone());
        let step = tokio::task::spawn_blocking(move || {
            follower.look(&own, SystemTime::now());
            if let Some(to) = to {
                follower.tell(&own, &*to);
            }
            follower
        });
        let Ok(next) = step.await else { return };
        follower = next;
        tokio::time::sleep(EVERY).await;
    }
}

/// What a look at the files is compared with.
#[derive(Debug, Default)]
struct Follower {
    seen: Seen,
    /// Why they are no good, as it was told.
    failed: Option<String>,
    warned: Vec<(&'static str, SystemTime, Duration)>,
    /// Of which files it was told what is revoked.
    told: Option<Arc<Loaded>>,
}

impl Follower {
    fn look(&mut self, trust: &Trust, now: SystemTime) {
        let seen = trust.seen();
        if seen != self.seen {
            match trust.load() {
                Ok(()) => {
                    tracing::info!(dir = %trust.dir.display(), "certificates are read");
                    self.failed = None;
                    self.seen = seen;
                }
                // Half of what is being replaced is no good either: it is looked at again.
                Err(e) => {
                    let why = chain(&e);
                    if self.failed.as_ref() != Some(&why) {
                        let kept = trust.now().is_some();
                        tracing::warn!(error = why, kept, "certificates cannot be used");
                    }
                    self.failed = Some(why);
                }
            }
        }
        for (name, left, before) in self.due(trust, now) {
            let (days, over) = (left / (24 * 60 * 60), before.is_zero());
            if over {
                tracing::error!(certificate = name, "a certificate of the public API has expired");
            } else {
                tracing::warn!(
                    certificate = name,
                    days,
                    "a certificate of the public API ends soon"
                );
            }
        }
    }

    /// Tells what somebody is to know of the files as they are.
    fn tell(&mut self, trust: &Trust, to: &dyn Certificates) {
        let Some(loaded) = trust.now() else { return };
        to.end(&loaded.ends);
        let known = self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &loaded));
        if !known && to.are_revoked(&loaded.revoked) {
            self.told = Some(loaded);
        }
    }

    /// Which certificates are to be told of, each once a threshold.
    fn due(&mut self, trust: &Trust, now: SystemTime) -> Vec<(&'static str, i64, Duration)> {
        let Some(loaded) = trust.now() else { return vec![] };
        let mut due = Vec::new();
        for (name, end) in loaded.ends {
            let left = end.duration_since(now).unwrap_or_default();
            let Some(before) = WARN.into_iter().find(|before| left <= *before) else { continue };
            if !self.warned.contains(&(name, end, before)) {
                self.warned.retain(|(other, ..)| *other != name);
                self.warned.push((name, end, before));
                due.push((name, seconds_until(end, now), before));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::{authority, day};
    use super::*;

    #[test]
    fn the_end_is_told_of_once_at_each_threshold() {
        let ours = authority();
        ours.server([-1, 40]);
        let trust = Trust::new(ours.dir.path().to_owned(), false);
        let mut follower = Follower::default();
        follower.look(&trust, SystemTime::now());
        let mut told = |days: i64| {
            let due = follower.due(&trust, day(days));
            due.into_iter().map(|(name, left, _)| (name, left / 86400)).collect::<Vec<_>>()
        };
        assert_eq!(told(0), []);
        assert_eq!(told(11), [("server", 28)], "or 29 were it asked at once");
        assert_eq!((told(12), told(32)), (vec![], vec![]));
        assert_eq!(told(34), [("server", 5)]);
        assert_eq!(told(39), [("server", 0)]);
        assert_eq!(told(41), [("server", -1)]);
        assert_eq!(told(42), [], "it has ended for good");
        ours.server([-1, 5]);
        follower.look(&trust, SystemTime::now());
        let new = trust.left(SystemTime::now());
        assert!(new.iter().any(|(name, left)| *name == "server" && *left < 6 * 86400), "{new:?}");
        assert!(follower.warned.iter().any(|(_, _, before)| *before == days(7)));
    }

    #[test]
    fn half_of_what_is_replaced_is_waited_for() {
        let (ours, other) = (authority(), authority());
        let trust = Trust::new(ours.dir.path().to_owned(), false);
        let mut follower = Follower::default();
        let look = |follower: &mut Follower| {
            follower.look(&trust, SystemTime::now());
            (follower.failed.is_some(), trust.now().map(|now| now.ends[1].1))
        };
        let (failed, first) = look(&mut follower);
        assert!(!failed && first.is_some());
        other.server([-1, 9]);
        fs::copy(other.path("server.crt"), ours.path("server.crt")).expect("copied");
        assert_eq!(look(&mut follower), (true, first), "the old one is kept");
        assert_eq!(look(&mut follower), (true, first));
        fs::copy(other.path("server.key"), ours.path("server.key")).expect("copied");
        let (failed, second) = look(&mut follower);
        assert!(!failed && second != first);
    }
}
