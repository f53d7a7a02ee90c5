//! nf_tables: a ruleset applied by `nft` in one transaction, and what changes often over netlink.
//!
//! Starting `nft` costs milliseconds, a message microseconds: so chains and rules, which the program
//! compiles for the kernel, are set up by it, seldom; tables, set elements and counters are read and
//! changed here, over one socket that lives as long as its daemon. The crate `nftables` would do none of
//! that: it starts the same program for each question and each change, and talks JSON to it. Sets are of
//! `ifname . ipv4_addr` and `ifname . ipv6_addr`. Family `inet` only. Decides nothing.

use std::collections::BTreeSet;
use std::io::{Seek, Write};
use std::net::IpAddr;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::cmd::{Cmd, find};
use crate::error::{Attempt, HostError};
use crate::netlink::{ACK, CREATE, DUMP, Message, Protocol, Reply, Socket, attributes};

mod news;

pub use news::NftNews;

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
const GET_SET: u16 = SUBSYSTEM | 10;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
const NEW_OBJECT: u16 = SUBSYSTEM | 18;
const GET_OBJECT: u16 = SUBSYSTEM | 19;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `struct nfgenmsg` for the family inet.
const INET: [u8; 4] = [1, 0, 0, 0];
/// `struct nfgenmsg` of a batch: its resource is the subsystem, in network order.
const BATCH: [u8; 4] = [0, 0, 0, 10];
/// `NFT_TABLE_F_OWNER`, since Linux 5.12, and `NFT_TABLE_F_PERSIST`, since 6.9.
const OWNED: u32 = 0x2;
const PERSISTENT: u32 = 0x4;
const NAME_LEN: usize = 16;
/// How many elements one message carries; its attributes must stay below 64 KiB.
const CHUNK: usize = 400;

/// Gives a ruleset to `nft -f -`; all of it takes effect or nothing.
///
/// # Errors
/// [`HostError::Lacks`] where `nft` is not installed or the kernel has no nf_tables;
/// [`HostError::Command`].
pub fn apply(ruleset: &str) -> Result<(), HostError> {
    let nft = find("nft", "nftables")?;
    let what = || "hand a ruleset to nft".to_owned();
    let memory = rustix::fs::memfd_create("ruleset", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = std::fs::File::from(memory.attempt(what)?);
    file.write_all(ruleset.as_bytes()).attempt(what)?;
    file.rewind().attempt(what)?;
    let nft = Cmd::new(nft).args(["-f", "-"]).stdin(file).capabilities(CapabilitySet::NET_ADMIN);
    match nft.run() {
        Err(HostError::Command { stderr, .. }) if stderr.contains("Operation not supported") => {
            Err(lacks(&stderr))
        }
        other => other.map(drop),
    }
}

fn lacks(why: &str) -> HostError {
    HostError::Lacks {
        feature: "nf_tables".to_owned(),
        why: format!("{why}; load or build CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET"),
    }
}

/// A link's name and an address that may come from it.
pub type Element = (String, IpAddr);

/// Who may change a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// Everybody, and nobody can own it: there is no table, or it is plain.
    #[default]
    Nobody,
    /// Everybody until somebody owns it: whoever owned it is gone.
    Gone,
    /// Whose socket it is: nobody else can change it, nor flush it.
    Somebody,
}

/// An nf_tables socket of the network namespace of the thread that opened it. A table that it owns is
/// given up when it is dropped, and stays.
#[derive(Debug)]
pub struct NftSocket {
    socket: Socket,
}

impl NftSocket {
    /// Opens a socket.
    ///
    /// # Errors
    /// [`HostError::Lacks`] where the kernel has no netfilter, [`HostError::Sys`].
    pub fn open() -> Result<Self, HostError> {
        match Socket::open(Protocol::Netfilter) {
            Err(e) if e.is(Errno::PROTONOSUPPORT) => Err(lacks("there is no such protocol")),
            other => other.map(|socket| Self { socket }),
        }
    }

    /// The number by which the kernel names this socket in what it tells of changes.
    pub const fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Who may change a table.
    ///
    /// # Errors
    /// [`HostError::Lacks`] where the kernel has no nf_tables, [`HostError::Sys`].
    pub fn owner(&mut self, table: &str) -> Result<Owner, HostError> {
        let mut message = Message::new(GET_TABLE, ACK, &INET);
        message.attr_text(1, table);
        match self.socket.ask(message, &format!("read table {table}")) {
            Err(e) if e.is(Errno::NOENT) => Ok(Owner::Nobody),
            Err(e) if e.is(Errno::INVAL) || e.is(Errno::OPNOTSUPP) => {
                Err(lacks("the kernel does not know its tables"))
            }
            other => Ok(other?.iter().find_map(parse_owner).unwrap_or_default()),
        }
    }

    /// Makes a table that can be owned, where the kernel has such that outlive their owner; else a
    /// plain one. One that is there is left as it is.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn make_table(&mut self, table: &str) -> Result<(), HostError> {
        match self.table(table, PERSISTENT) {
            // An older kernel, or a plain table.
            Err(e) if e.is(Errno::OPNOTSUPP) => self.table(table, 0),
            other => other,
        }
        .or_else(|e| if e.is(Errno::OPNOTSUPP) { Ok(()) } else { Err(e) })
    }

    /// Owns a table, unless it is plain or somebody does already.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn own_table(&mut self, table: &str) -> Result<(), HostError> {
        match self.table(table, PERSISTENT | OWNED) {
            Err(e) if e.is(Errno::OPNOTSUPP) || e.is(Errno::PERM) => Ok(()),
            other => other,
        }
    }

    fn table(&mut self, table: &str, flags: u32) -> Result<(), HostError> {
        let mut message = Message::new(NEW_TABLE, ACK | CREATE, &INET);
        message.attr_text(1, table).attr(2, &flags.to_be_bytes());
        self.batch(vec![message], &format!("set up table {table}"))
    }

    /// A dump; `None` where the table or the set is absent.
    fn dump(&mut self, message: Message, what: &str) -> Result<Option<Vec<Reply>>, HostError> {
        match self.socket.dump(message, what) {
            Err(e) if e.is(Errno::NOENT) => Ok(None),
            Err(e) if e.is(Errno::INVAL) || e.is(Errno::OPNOTSUPP) => {
                Err(lacks(&format!("{what}: the kernel refuses it")))
            }
            other => other.map(Some),
        }
    }

    /// The comments of a table's rules with their chains, in the rules' order; a rule without one
    /// has an empty comment.
    ///
    /// # Errors
    /// [`HostError::Lacks`], [`HostError::Sys`].
    pub fn rules(&mut self, table: &str) -> Result<Vec<(String, String)>, HostError> {
        let mut message = Message::new(GET_RULE, DUMP, &INET);
        message.attr_text(1, table);
        let replies = self.dump(message, &format!("read the rules of table {table}"))?;
        let replies = replies.unwrap_or_default();
        Ok(replies.iter().filter_map(|r| parse_rule(r, table)).collect())
    }

    /// The names of a table's sets, also of nameless ones.
    ///
    /// # Errors
    /// [`HostError::Lacks`], [`HostError::Sys`].
    pub fn sets(&mut self, table: &str) -> Result<BTreeSet<String>, HostError> {
        let mut message = Message::new(GET_SET, DUMP, &INET);
        message.attr_text(1, table);
        let replies = self.dump(message, &format!("read the sets of table {table}"))?;
        let sets = replies.iter().flatten().filter(|r| r.kind == NEW_SET);
        let names = sets.filter_map(|r| attributes(r.payload.get(4..)?).find(|a| a.kind == 2));
        Ok(names.map(|a| a.text()).collect())
    }

    /// The elements of a set; `None` where it is absent.
    ///
    /// # Errors
    /// [`HostError::Lacks`], [`HostError::Sys`].
    pub fn elements(
        &mut self,
        table: &str,
        set: &str,
    ) -> Result<Option<BTreeSet<Element>>, HostError> {
        let mut message = Message::new(GET_ELEMENT, DUMP, &INET);
        message.attr_text(1, table).attr_text(2, set);
        let replies = self.dump(message, &format!("read the set {set} of table {table}"))?;
        Ok(replies.map(|replies| replies.iter().flat_map(parse_elements).collect()))
    }

    /// How many packets a named counter saw; `None` where it is absent.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn counter(&mut self, table: &str, name: &str) -> Result<Option<u64>, HostError> {
        let mut message = Message::new(GET_OBJECT, ACK, &INET);
        message.attr_text(1, table).attr_text(2, name).attr(3, &1_u32.to_be_bytes());
        match self.socket.ask(message, &format!("read the counter {name} of table {table}")) {
            Err(e) if e.is(Errno::NOENT) => Ok(None),
            other => Ok(other?.iter().find_map(parse_counter)),
        }
    }

    /// Adds elements to a set; those that are there stay.
    ///
    /// # Errors
    /// [`HostError::Sys`]; `ENOENT` where the set is absent.
    pub fn add(&mut self, table: &str, set: &str, elements: &[Element]) -> Result<(), HostError> {
        let what = format!("add {} elements to the set {set}", elements.len());
        let chunks = elements.chunks(CHUNK);
        let messages = chunks.map(|c| element_message(NEW_ELEMENT, CREATE, table, set, c));
        self.batch(messages.collect(), &what)
    }

    /// Removes elements from a set; those that are absent are no failure.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove(
        &mut self,
        table: &str,
        set: &str,
        elements: &[Element],
    ) -> Result<(), HostError> {
        let what = format!("remove {} elements from the set {set}", elements.len());
        let message = |chunk: &[Element]| element_message(DEL_ELEMENT, 0, table, set, chunk);
        let whole = self.batch(elements.chunks(CHUNK).map(message).collect(), &what);
        match whole {
            // One was absent and the kernel undid the rest: one by one, then.
            Err(e) if e.is(Errno::NOENT) && elements.len() > 1 => {
                elements.chunks(1).try_for_each(|one| self.remove(table, set, one))
            }
            Err(e) if e.is(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Removes a table with everything in it.
    ///
    /// # Errors
    /// [`HostError::Sys`].
    pub fn remove_table(&mut self, table: &str) -> Result<(), HostError> {
        let mut message = Message::new(DEL_TABLE, ACK, &INET);
        message.attr_text(1, table);
        match self.batch(vec![message], &format!("remove table {table}")) {
            Err(e) if e.is(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn batch(&mut self, messages: Vec<Message>, what: &str) -> Result<(), HostError> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut all = vec![Message::new(BATCH_BEGIN, 0, &BATCH)];
        all.extend(messages);
        all.push(Message::new(BATCH_END, 0, &BATCH));
        self.socket.transact(all, what).map(drop)
    }
}

fn element_message(kind: u16, flags: u16, table: &str, set: &str, elements: &[Element]) -> Message {
    let mut message = Message::new(kind, flags | ACK, &INET);
    message.attr_text(1, table).attr_text(2, set).nest(3, |list| {
        for (link, ip) in elements {
            let mut key = link.as_bytes().to_vec();
            key.resize(NAME_LEN, 0);
            match ip {
                IpAddr::V4(v4) => key.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => key.extend_from_slice(&v6.octets()),
            }
            list.nest(1, |element| {
                element.nest(1, |data| {
                    data.attr(1, &key);
                });
            });
        }
    });
    message
}

fn parse_owner(reply: &Reply) -> Option<Owner> {
    if reply.kind != NEW_TABLE {
        return None;
    }
    let flags = attributes(reply.payload.get(4..)?).find(|a| a.kind == 2)?;
    let flags = flags.payload.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
    Some(match (flags & OWNED != 0, flags & PERSISTENT != 0) {
        (true, _) => Owner::Somebody,
        (false, true) => Owner::Gone,
        (false, false) => Owner::Nobody,
    })
}

fn parse_rule(reply: &Reply, table: &str) -> Option<(String, String)> {
    if reply.kind != NEW_RULE {
        return None;
    }
    let (mut of, mut chain, mut comment) = (String::new(), String::new(), String::new());
    for attribute in attributes(reply.payload.get(4..)?) {
        match attribute.kind {
            1 => of = attribute.text(),
            2 => chain = attribute.text(),
            7 => comment = parse_comment(attribute.payload).unwrap_or_default(),
            _ => {}
        }
    }
    (of == table).then_some((chain, comment))
}

/// The comment in a rule's user data, which is a list of kind, length, value; kind 0 is it.
fn parse_comment(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    while let [kind, len, tail @ ..] = rest {
        let value = tail.get(..usize::from(*len))?;
        if *kind == 0 {
            let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
            return Some(String::from_utf8_lossy(&value[..end]).into_owned());
        }
        rest = tail.get(usize::from(*len)..)?;
    }
    None
}

fn parse_elements(reply: &Reply) -> Vec<Element> {
    let list = attributes(reply.payload.get(4..).unwrap_or_default()).find(|a| a.kind == 3);
    let elements = list.into_iter().flat_map(|l| l.nested());
    let keys = elements.filter_map(|e| e.nested().find(|a| a.kind == 1));
    keys.filter_map(|k| k.nested().find(|a| a.kind == 1))
        .filter_map(|value| {
            let (name, ip) = value.payload.split_at_checked(NAME_LEN)?;
            let end = name.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
            let ip = match *ip {
                [a, b, c, d] => IpAddr::from([a, b, c, d]),
                _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
            };
            Some((String::from_utf8_lossy(&name[..end]).into_owned(), ip))
        })
        .collect()
}

fn parse_counter(reply: &Reply) -> Option<u64> {
    if reply.kind != NEW_OBJECT {
        return None;
    }
    let data = attributes(reply.payload.get(4..)?).find(|a| a.kind == 4)?;
    data.nested().find(|a| a.kind == 2).map(|a| a.be64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(message: &Message) -> Vec<Element> {
        parse_elements(&Reply { kind: NEW_ELEMENT, payload: message.payload().to_vec() })
    }

    #[test]
    fn elements_are_read_as_they_are_written() {
        let elements = vec![
            ("ves101".to_owned(), IpAddr::from([192, 0, 2, 1])),
            ("ves2147483644".to_owned(), "2001:db8::1".parse().expect("an address")),
        ];
        assert_eq!(read_back(&element_message(NEW_ELEMENT, 0, "t", "s", &elements)), elements);
    }

    #[test]
    fn comments_are_found_among_other_user_data() {
        assert_eq!(parse_comment(b"\x01\x01x\x00\x03ab\x00"), Some("ab".to_owned()));
        for bad in [&b""[..], b"\x00", b"\x00\x05ab", b"\x01\xffx"] {
            assert_eq!(parse_comment(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_the_kernel_says_is_understood() {
        use crate::netlink::recorded;
        let rules: Vec<_> = recorded("read the rules of table ves")
            .iter()
            .filter_map(|r| parse_rule(r, "ves"))
            .collect();
        assert_eq!(rules.len(), 10);
        assert_eq!(rules[0], ("guard".to_owned(), "not from a container".to_owned()));
        assert!(rules.iter().all(|(_, comment)| !comment.is_empty()), "{rules:?}");
        let elements = |set| -> BTreeSet<Element> {
            let replies = recorded(&format!("read the set {set} of table ves"));
            replies.iter().flat_map(parse_elements).collect()
        };
        let element = |ip: &str| ("ves9200".to_owned(), ip.parse().expect("an address"));
        assert_eq!(elements("sources4"), [element("192.0.2.10")].into());
        assert_eq!(elements("sources6"), [element("2001:db8::10")].into());
        let counter = recorded("read the counter spoofed of table ves");
        assert_eq!(counter.iter().find_map(parse_counter), Some(0));
    }
}
