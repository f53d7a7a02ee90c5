//! Publishing that a certificate which the network is served with ends soon, or has ended, and that clients'
//! certificates were revoked.
//!
//! Each threshold is told once: which were is stored with the event, and so is what was known to be revoked. Never
//! here: how the files are followed, or who issues certificates, which the coordinator does not hear of.

use std::collections::BTreeSet;
use std::time::SystemTime;

use ves_daemon::Certificates;
use ves_proto::public::node_name;

use crate::coordinator::Coordinator;
use crate::event::record::{NewEvent, Type};
use crate::operation::public::own;
use crate::operation::record::Cause;

/// How many days before its end a certificate is told of; the last first.
const DAYS: [i64; 4] = [0, 1, 7, 30];
const MILLIS_A_DAY: i64 = 86_400_000;
/// The fact that says what is known to be revoked.
const REVOKED: &str = "told_revoked";
/// How many certificates that were revoked at once are told of one by one.
const ONE_BY_ONE: usize = 100;

/// Which threshold a certificate has come to that has so long left.
fn threshold(left_ms: i64) -> Option<i64> {
    DAYS.into_iter().find(|days| left_ms <= days.saturating_mul(MILLIS_A_DAY))
}

/// The fact that says what was told of a certificate.
fn fact_of(certificate: &str) -> Option<&'static str> {
    match certificate {
        "ca" => Some("told_certificate_ca"),
        "server" => Some("told_certificate_server"),
        _ => None,
    }
}

fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// As RFC 3339 has it, to the second.
fn rfc3339(unix_ms: i64) -> String {
    prost_types::Timestamp { seconds: unix_ms.div_euclid(1000), nanos: 0 }.to_string()
}

impl Coordinator {
    fn of_certificates(&self, kind: Type) -> NewEvent {
        NewEvent::to(kind, node_name(self.node())).by(own(Cause::Node))
    }

    fn certificate_ends(&self, certificate: &str, end_ms: i64) {
        let left_ms = end_ms.saturating_sub(self.clock().now_ms());
        let (Some(fact), Some(days)) = (fact_of(certificate), threshold(left_ms)) else { return };
        let told = format!("{end_ms}/{days}");
        if self.state().read().fact(fact) == Some(&told) {
            return;
        }
        let left = left_ms.div_euclid(MILLIS_A_DAY);
        let event = self
            .of_certificates(Type::CertificateExpiry)
            .fact("certificate", certificate)
            .fact("expire_time", &rfc3339(end_ms))
            .fact("days", &left.to_string());
        let stored = self.state().transact(|_, change| {
            change.facts.push((fact, told));
            change.events.push(event);
            Ok(())
        });
        if let Err(fault) = stored {
            tracing::warn!(certificate, error = %fault, "its end is told later");
        }
    }
}

impl Certificates for Coordinator {
    fn end(&self, ends: &[(&'static str, SystemTime)]) {
        for (certificate, end) in ends {
            self.certificate_ends(certificate, unix_ms(*end));
        }
    }

    fn are_revoked(&self, serials: &BTreeSet<String>) -> bool {
        let all = serials.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let stored = self.state().transact(|index, change| {
            let before = index.fact(REVOKED);
            if before == Some(&all) {
                return Ok(());
            }
            // What was revoked before anybody looked is no news.
            let news: Vec<&str> = before.map_or_else(Vec::new, |before| {
                let known: BTreeSet<&str> = before.split_whitespace().collect();
                serials.iter().map(String::as_str).filter(|id| !known.contains(id)).collect()
            });
            let revoked = || self.of_certificates(Type::Access).fact("kind", "CERTIFICATE_REVOKED");
            if news.len() > ONE_BY_ONE {
                change.events.push(revoked().fact("count", &news.len().to_string()));
            } else {
                change.events.extend(news.into_iter().map(|id| revoked().fact("id", id)));
            }
            change.facts.push((REVOKED, all.clone()));
            Ok(())
        });
        stored.inspect_err(|fault| tracing::debug!(error = %fault, "told later")).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let of = |hours: i64| threshold(hours * 3_600_000);
        let told = [721, 720, 169, 168, 25, 24, 0, -72].map(of);
        let all = [None, Some(30), Some(30), Some(7), Some(7), Some(1), Some(0), Some(0)];
        assert_eq!(told, all);
        assert_eq!(rfc3339(1_700_000_000_999), "2023-11-14T22:13:20Z");
    }
}
