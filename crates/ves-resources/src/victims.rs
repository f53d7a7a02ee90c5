//! Who was killed because memory ran out: what the kernel's log says of it, and how that is matched with what
//! is counted. Pure.
//!
//! ```text
//!   6,1,2,-;oom-kill:constraint=…,cpuset=C,mems_allowed=0,oom_memcg=G,task_memcg=G,task=NAME,pid=N,uid=N
//!                                        │                                    └─ /…/ves/ct-101/…
//!                                        └─ tenants choose C, NAME and the end of G
//! ```
//!
//! **The count is what happened; the log only names it.** A record counts for a container only where the
//! kernel counted a kill of it, so that what a tenant makes another's record look like shows nothing of
//! its own. A record in which a field comes twice, which a tenant can bring about, names nobody.
//! The kernel logs at most ten in five seconds, so of many kills some have no name.

use std::collections::{BTreeMap, VecDeque};

use ves_types::{CtId, Victim};

/// How many of a container's victims are kept.
pub const KEPT: usize = 8;
/// Of how many containers names wait for their count.
const WAITING: usize = 4096;
/// How many looks at all a name waits for its count, which the kernel writes just after it.
const LOOKS: u8 = 2;

/// The victim that a record of the kernel's log names, and its container.
pub fn parse_victim(record: &str) -> Option<(CtId, Victim)> {
    let (prefix, rest) = record.split_once(';')?;
    // Higher priorities are of other facilities: somebody wrote them to the log.
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    let text = rest.lines().next().filter(|_| priority < 8)?;
    text.strip_prefix("oom-kill:constraint=")?;
    let once = |key: &str| {
        let mut found = text.match_indices(key);
        let at = found.next()?.0;
        found.next().is_none().then_some((at, at + key.len()))
    };
    let keys = [",cpuset=", ",mems_allowed=", ",task_memcg=", ",task=", ",pid=", ",uid="];
    let mut at = Vec::new();
    for key in keys {
        at.push(once(key)?);
    }
    if !at.is_sorted() {
        return None;
    }
    let [_, _, (_, group), (group_end, name), (name_end, pid), (pid_end, uid)] = *at.as_slice()
    else {
        return None;
    };
    text.get(uid..)?.parse::<u32>().ok()?;
    let ct = container(text.get(group..group_end)?)?;
    Some((ct, Victim::new(text.get(name..name_end)?, text.get(pid..pid_end)?.parse().ok()?)))
}

/// The container of a group: whatever is before its name, as where the node is in a group itself, is not the
/// tenant's choice, and all that comes after it is.
fn container(group: &str) -> Option<CtId> {
    let (_, after) = group.split_once("/ves/ct-")?;
    after.split('/').next()?.parse().ok()
}

/// A name that waits for its count.
#[derive(Debug)]
struct Named {
    victim: Victim,
    looks: u8,
}

/// What is known of one container.
#[derive(Debug, Default)]
struct Known {
    counted: u64,
    last: VecDeque<Victim>,
}

/// Victims of all containers.
#[derive(Debug, Default)]
pub struct Victims {
    named: BTreeMap<CtId, VecDeque<Named>>,
    known: BTreeMap<CtId, Known>,
}

impl Victims {
    /// Takes in what the log named.
    pub fn hear(&mut self, named: impl IntoIterator<Item = (CtId, Victim)>) {
        for (ct, victim) in named {
            if self.named.len() >= WAITING && !self.named.contains_key(&ct) {
                continue;
            }
            let waiting = self.named.entry(ct).or_default();
            waiting.push_back(Named { victim, looks: 0 });
            if waiting.len() > KEPT {
                waiting.pop_front();
            }
        }
    }

    /// Takes in how many of a container were counted, by a look at the counts that came before the log was
    /// read, and tells the last of them, the newest last. Fewer than before are those of a new run.
    pub fn count(&mut self, ct: CtId, counted: u64) -> Vec<Victim> {
        let known = self.known.entry(ct).or_default();
        if counted < known.counted {
            *known = Known::default();
        }
        let new = usize::try_from(counted - known.counted).unwrap_or(usize::MAX);
        known.counted = counted;
        if let Some(waiting) = self.named.get_mut(&ct) {
            let first = waiting.len().saturating_sub(new);
            known.last.extend(waiting.drain(first..).map(|named| named.victim));
            if waiting.is_empty() {
                self.named.remove(&ct);
            }
        }
        let surplus = known.last.len().saturating_sub(KEPT);
        known.last.drain(..surplus);
        known.last.iter().cloned().collect()
    }

    /// Forgets containers that are not among these, and names whose count never came.
    pub fn retain(&mut self, counts: &BTreeMap<CtId, u64>) {
        self.known.retain(|ct, _| counts.contains_key(ct));
        self.named.retain(|_, waiting| {
            waiting.retain_mut(|named| {
                named.looks += 1;
                named.looks < LOOKS
            });
            !waiting.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ct(id: u32) -> CtId {
        id.try_into().expect("valid")
    }

    /// A record of Linux 6.18, whose fields a tenant chooses.
    fn record(cpuset: &str, group: &str, name: &str) -> String {
        format!(
            "6,128019,36748704027,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),\
             cpuset={cpuset},mems_allowed=0-1,3,oom_memcg={group},task_memcg={group},task={name},\
             pid=22863,uid=100000\n SUBSYSTEM=x\n"
        )
    }

    fn named(name: &str) -> Victim {
        Victim::new(name, 22863)
    }

    #[test]
    fn a_record_names_container_and_victim() {
        for (group, id) in [
            ("/ves/ct-101", Some(101)),
            ("/ves/ct-101/delegated/system.slice/x.service", Some(101)),
            ("/node-7/ves/ct-101/x", Some(101)),
            // Below a container everything is its own choice.
            ("/ves/ct-101/delegated/ves/ct-102", Some(101)),
            ("/ves/self-test-1-0", None),
            ("/ves/ct-0", None),
            ("/ves/ct-101x", None),
            ("/", None),
        ] {
            let parsed = parse_victim(&record("/", group, "redis-server"));
            assert_eq!(parsed, id.map(|id| (ct(id), named("redis-server"))), "{group}");
        }
        let node = record("/", "/ves/ct-5", "x").replace(",oom_memcg=/ves/ct-5", ",global_oom");
        assert_eq!(parse_victim(&node), Some((ct(5), named("x"))), "the whole node was without");
        let strange = parse_victim(&record("/", "/ves/ct-5", "we,i rd\\x0a\\x1b[m"));
        assert_eq!(strange, Some((ct(5), named("we,i rd\\x0a\\x1b[m"))));
    }

    #[test]
    fn what_could_be_a_tenants_making_names_nobody() {
        let own = "/ves/ct-101/delegated/x";
        let all = [
            record("a,mems_allowed=0,task_memcg=/ves/ct-102,task=e,pid=1,uid=0", own, "x"),
            record("/", &format!("{own},task_memcg=/ves/ct-102"), "x"),
            record("/", own, "x,pid=1,uid=0"),
            record("/", own, "x,task=y"),
            // Somebody with a right to write to the log.
            record("/", own, "x").replacen("6,", "14,", 1),
            record("/", own, "x").replacen("oom-kill:", "x oom-kill:", 1),
            // Cut off, or with something else in between.
            record("/", own, "x").replace(",uid=100000", ",uid="),
            record("/", own, "x").replace(",uid=100000", ""),
            String::new(),
            "6,1,2,-;oom-kill:constraint=\n".to_owned(),
        ];
        for record in all {
            assert_eq!(parse_victim(&record), None, "{record}");
        }
    }

    #[test]
    fn names_are_told_only_of_what_was_counted() {
        let mut victims = Victims::default();
        let a = |n: u32| (ct(101), Victim::new(&format!("a{n}"), n));
        victims.hear([a(1), (ct(102), named("forged"))]);
        assert_eq!(victims.count(ct(102), 0), [], "the kernel counted none of it");
        assert_eq!(victims.count(ct(101), 1), [a(1).1]);
        assert_eq!(victims.count(ct(101), 1), [a(1).1], "whoever asks again is told the same");
        // Kills without names, and names without limit.
        assert_eq!(victims.count(ct(101), 50), [a(1).1]);
        victims.hear((2..100).map(a));
        let last = victims.count(ct(101), 1000);
        assert_eq!(last, (92..100).map(|n| a(n).1).collect::<Vec<_>>());
        // A new run.
        assert_eq!(victims.count(ct(101), 0), []);
    }

    #[test]
    fn what_is_not_counted_soon_is_forgotten() {
        let mut victims = Victims::default();
        let counts = |n| BTreeMap::from([(ct(101), n)]);
        victims.hear([(ct(101), named("early"))]);
        assert_eq!(victims.count(ct(101), 0), []);
        victims.retain(&counts(0));
        assert_eq!(victims.count(ct(101), 1), [named("early")], "its count came after it");
        victims.hear([(ct(101), named("old"))]);
        victims.retain(&counts(1));
        victims.retain(&counts(1));
        assert_eq!(victims.count(ct(101), 2), [named("early")]);
        victims.retain(&BTreeMap::new());
        assert_eq!(victims.count(ct(101), 2), [], "it was gone in between");
        victims.hear((1..20_000).map(|id| (ct(id), named("many"))));
        assert!(victims.named.len() <= WAITING);
    }
}
