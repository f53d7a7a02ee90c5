//! The judging pass: an archive of anybody in, an equivalent harmless one out.
//!
//! Of what comes out is true: every path is relative and without `.` or `..`; each directory comes
//! before what is in it; nothing is below a symbolic link or a file, for entries that are there are written where
//! their links lead inside of the archive; where a path comes again, the last one counts; a hard link's target is an
//! earlier entry; there are files, with their holes, directories, symbolic and hard links and fifos only; owners are
//! from 0 to 65534; no mode and no list grants more than before.
//! What would make two systems the same one, such as the machine id, the host name and the keys of the
//! SSH server, is left out ([`own`]). Entries that cannot be taken are named all at once.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};

use tar::{EntryType, Header};

use self::input::{
    Body, broken, c_string, device, link_of, next_header, number, padding, skip, unclear,
};
use self::output::Entry;
use self::pax::Extended;
pub(crate) use self::pax::pairs as pax_pairs;
use crate::acl::Tag;
use crate::contents::{Contents, Init, Judging};
use crate::decompress::decompress;
use crate::notes::Notes;
use crate::refused::{Problem, Problems, Refused, lossy};
use crate::root;
use crate::sparse::Map;
use crate::tree::{Kind, Placed, Tree, below};

mod attributes;
mod input;
mod output;
mod own;
mod pax;

/// The most bytes the extended headers of one entry may have.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most bytes of the names in one directory of an incremental backup.
const MAX_DUMPDIR: u64 = 8 << 20;
/// The most files that an incremental backup may announce before they come.
const MAX_ANNOUNCED: usize = 1 << 16;
/// How often hard links that came before their targets are gone through.
const ROUNDS: u32 = 8;
/// What an entry is called that stands for one that is gone.
const WHITEOUTS: &str = "whiteouts of layers";
/// An extended header, as Solaris wrote it before the standard had `x`.
const SOLARIS: u8 = b'X';
/// GNU's rest of a file that began in an earlier volume.
const VOLUME: u8 = b'M';
/// GNU's name of a volume.
const LABEL: u8 = b'V';
/// GNU's directory with the names in it, of an incremental backup.
const DUMPDIR: u8 = b'D';
/// Emptied: systemd makes one at the first start.
const MACHINE_ID: &[u8] = b"etc/machine-id";
/// Why a part of an archive is not taken.
const LATER_VOLUME: &str = "it goes on from an earlier volume; join the volumes by unpacking them with tar, and import the directory";

/// Why an entry is not taken.
enum Stop {
    /// Itself; those after it are looked at.
    Entry(Problem),
    /// And nothing after it can be.
    All(Refused),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Entry(problem)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::All(refused)
    }
}

struct Normaliser<'a, W: Write> {
    judging: &'a Judging,
    tree: Tree,
    os_release: Option<Vec<u8>>,
    bytes: u64,
    inodes: u64,
    /// Bytes that were read over, or written in vain.
    passed: u64,
    /// What pax says of every entry.
    global: Extended,
    /// Hard links whose targets did not come yet: path and target, clean, and the name.
    early: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    /// Files that an incremental backup knows and does not hold.
    announced: Vec<Vec<u8>>,
    /// Who is named in access control lists.
    named: BTreeSet<(Tag, String)>,
    /// Bytes of those names.
    named_bytes: usize,
    /// Lists of users and groups, by path.
    lists: HashMap<Vec<u8>, Vec<u8>>,
    problems: Problems,
    notes: Notes,
    output: &'a mut W,
}

/// Reads an archive, compressed in any known way, and writes it clean and without compression. Where
/// [`Judging::once_more`] answers for what is found, what was written has to go through here again.
///
/// # Errors
/// [`Refused`]: what is wrong with which entries, or what failed.
pub fn normalise(
    input: impl Read,
    output: &mut impl Write,
    judging: &Judging,
) -> Result<Contents, Refused> {
    let mut input =
        decompress(input).map_err(|e| Refused::bad(b"", format!("it does not decode: {e}")))?;
    let limits = judging.limits;
    let mut state = Normaliser {
        judging,
        tree: Tree::new(),
        os_release: None,
        bytes: 4096,
        inodes: 1,
        passed: 0,
        global: Extended::default(),
        early: Vec::new(),
        announced: Vec::new(),
        named: BTreeSet::new(),
        named_bytes: 0,
        lists: HashMap::new(),
        problems: Problems::default(),
        notes: Notes::default(),
        output,
    };
    let mut extended = Extended::default();
    let mut headers = 0u64;
    while let Some(header) = next_header(&mut input, headers == 0)? {
        headers += 1;
        // Also headers that stand for no inode must end some time.
        if headers > limits.inodes.saturating_mul(4).saturating_add(16) {
            return Err(Refused::too_large(b"", "too many headers"));
        }
        state.entry(&header, &mut extended, &mut input)?;
    }
    if headers == 0 {
        return Err(Refused::bad(b"", "it holds nothing"));
    }
    // What follows the end is padding; reading it lets the sender finish and be checked.
    let mut rest = input.take(limits.bytes);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return state.finish(),
            Ok(n) if buffer.iter().take(n).any(|b| *b != 0) => {
                state.notes.left_out("blocks after the archive's end", b"");
            }
            Ok(_) => {}
            Err(e) => return Err(broken(&e, b"")),
        }
    }
}

impl<W: Write> Normaliser<'_, W> {
    fn entry(
        &mut self,
        header: &Header,
        extended: &mut Extended,
        input: &mut impl Read,
    ) -> Result<(), Refused> {
        let raw_name = header.path_bytes().into_owned();
        let size = number(&header.as_old().size, header.entry_size())
            .map_err(|_| Refused::bad(&raw_name, "its size is no number"))?;
        let kind = header.entry_type();
        match kind {
            EntryType::GNULongName => {
                extended.path = Some(c_string(self.extension(&raw_name, size, input)?));
                return Ok(());
            }
            EntryType::GNULongLink => {
                extended.link = Some(c_string(self.extension(&raw_name, size, input)?));
                return Ok(());
            }
            _ if matches!(kind.as_byte(), b'x' | SOLARIS) => {
                let data = self.extension(&raw_name, size, input)?;
                return extended.read(&data, &raw_name, false);
            }
            EntryType::XGlobalHeader => {
                let data = self.extension(&raw_name, size, input)?;
                self.global.read(&data, &raw_name, true)?;
                extended.clone_from(&self.global);
                return Ok(());
            }
            _ if kind.as_byte() == VOLUME => return Err(Refused::bad(&raw_name, LATER_VOLUME)),
            _ => {}
        }
        let global = self.global.clone();
        let mut ext = std::mem::replace(extended, global);
        let size = ext.size.unwrap_or(size);
        let name = ext.path.take().unwrap_or(raw_name);
        let map = match kind {
            EntryType::GNUSparse => {
                Some(Map::read_gnu(header, input).map_err(|e| unclear(e, &name))?)
            }
            _ => None,
        };
        let mut body = Body { input, name: &name, left: size, padding: padding(size) };
        match self.judge(header, &name, ext, map, &mut body) {
            Ok(()) => {}
            Err(Stop::Entry(problem)) => self.problems.add(&name, problem),
            Err(Stop::All(refused)) => return Err(refused),
        }
        let Body { left, padding, input, .. } = body;
        self.pass(left, &name)?;
        skip(left.saturating_add(padding), input, &name)
    }

    /// Takes an entry, or leaves it out, or refuses it; of its data as much is read as is wanted.
    fn judge(
        &mut self,
        header: &Header,
        name: &[u8],
        mut ext: Extended,
        map: Option<Map>,
        body: &mut Body<'_, impl Read>,
    ) -> Result<(), Stop> {
        let kind = header.entry_type();
        if kind.as_byte() == LABEL {
            self.notes.left_out("volume labels", name);
            return Ok(());
        }
        let Some(clean) = self.inside(&Tree::clean(name, &self.judging.limits)?) else {
            self.notes.left_out("files beside the root file system", name);
            return Ok(());
        };
        let path = self.tree.resolve(&clean, &self.judging.limits)?;
        if let Some(problem) = ext.problem() {
            return Err(problem.into());
        }
        if kind == EntryType::Link {
            let link = link_of(header, &mut ext);
            return self.hard_link(&path, &link, name);
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            self.notes.left_out(device(header), name);
            return self.place(&path, Kind::Skipped, 0);
        }
        let map = match map {
            None if ext.sparse.is_sparse() => {
                let room = body.left;
                let said = std::mem::take(&mut ext.sparse).map(room, body);
                Some(said.map_err(|e| unclear(e, name))?)
            }
            map => map,
        };
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
                // Old archives mark directories by a slash at the end.
                if !name.ends_with(b"/") || map.is_some() =>
            {
                let map = match map {
                    Some(map) => map,
                    None => Map::whole(body.left).map_err(|e| unclear(e, name))?,
                };
                self.regular(header, &ext, &path, &map, body)
            }
            _ if matches!(kind, EntryType::Directory | EntryType::Regular)
                || kind.as_byte() == DUMPDIR =>
            {
                let out = self.attributes(header, &ext, &path, &Kind::Dir)?;
                self.place(&path, Kind::Dir, 4096)?;
                self.put(&out, EntryType::Directory, 0, b"", None)?;
                if kind.as_byte() == DUMPDIR && ext.dumpdir.is_none() {
                    if body.left > MAX_DUMPDIR {
                        return Err(Problem::large("its directory has too many names").into());
                    }
                    ext.dumpdir = Some(body.whole()?);
                }
                Ok(self.announce(&path, &ext.dumpdir.unwrap_or_default())?)
            }
            EntryType::Symlink => {
                let link = link_of(header, &mut ext);
                if link.is_empty() || link.len() > 4095 || link.contains(&0) {
                    let why = "its link target is empty or longer than 4095 bytes";
                    return Err(Problem::bad(why).into());
                }
                let is = Kind::Symlink(link.as_slice().into());
                let out = self.attributes(header, &ext, &path, &is)?;
                self.place(&path, is, if link.len() > 59 { 4096 } else { 0 })?;
                Ok(self.put(&out, EntryType::Symlink, 0, &link, None)?)
            }
            EntryType::Fifo => {
                let out = self.attributes(header, &ext, &path, &Kind::Fifo)?;
                self.place(&path, Kind::Fifo, 0)?;
                Ok(self.put(&out, EntryType::Fifo, 0, b"", None)?)
            }
            other => {
                let why = format!("its type {:?} is unknown", char::from(other.as_byte()));
                Err(Problem::bad(why).into())
            }
        }
    }

    /// Takes a regular file, or leaves it out.
    fn regular(
        &mut self,
        header: &Header,
        ext: &Extended,
        path: &[u8],
        map: &Map,
        body: &mut Body<'_, impl Read>,
    ) -> Result<(), Stop> {
        if map.stored() != body.left {
            return Err(Problem::bad("its pieces between holes are not what is there").into());
        }
        if own::is_own(path) {
            return self.place(path, Kind::Skipped, 0);
        }
        if map.size == 0 && last(path).starts_with(b".wh.") {
            self.notes.left_out(WHITEOUTS, body.name);
            return self.place(path, Kind::Skipped, 0);
        }
        let out = self.attributes(header, ext, path, &Kind::File)?;
        let machine = path == MACHINE_ID;
        self.place(path, Kind::File, if machine { 0 } else { map.allocated() })?;
        match machine {
            true => self.put(&out, EntryType::Regular, 0, b"", None)?,
            false => self.file(&out, map, body)?,
        }
        Ok(())
    }

    /// A clean path as it is below the root, where it is there.
    fn inside(&self, path: &[u8]) -> Option<Vec<u8>> {
        below(path, self.judging.root()).map(<[u8]>::to_vec)
    }

    /// Takes a hard link, or keeps it until its target comes.
    fn hard_link(&mut self, path: &[u8], link: &[u8], name: &[u8]) -> Result<(), Stop> {
        let target = Tree::clean(link, &self.judging.limits)?;
        let Some(target) = self.inside(&target) else {
            let why = format!("it is a hard link to {:?}, which lies outside", lossy(link));
            return Err(Problem::bad(why).into());
        };
        let target = self.tree.resolve(&target, &self.judging.limits)?;
        match self.tree.kind(&target) {
            Some(Kind::File | Kind::Symlink(_) | Kind::Fifo) => {
                if !self.tree.same(path, &target) {
                    self.parents(path)?;
                    let placed = self.tree.link(path, &target)?;
                    self.give_back(&placed);
                    self.put(&Entry::plain(path, 0o644), EntryType::Link, 0, &target, None)?;
                }
                Ok(())
            }
            Some(Kind::Skipped) => self.place(path, Kind::Skipped, 0),
            Some(Kind::Dir) => Err(Problem::bad("it is a hard link to a directory").into()),
            None => {
                self.tree.hold(path.len() + target.len() + name.len())?;
                self.early.push((path.to_vec(), target, name.to_vec()));
                Ok(())
            }
        }
    }

    /// Takes the hard links that came before their targets.
    fn late_links(&mut self) -> Result<(), Refused> {
        for _ in 0..ROUNDS {
            let early = std::mem::take(&mut self.early);
            for (path, target, name) in early {
                // What came later under that name counts.
                if self.tree.has(&path) {
                    continue;
                }
                match self.hard_link(&path, &self.outside(&target), &name) {
                    Ok(()) => {}
                    Err(Stop::Entry(problem)) => self.problems.add(&name, problem),
                    Err(Stop::All(refused)) => return Err(refused),
                }
            }
        }
        for (_, target, name) in std::mem::take(&mut self.early) {
            let why = format!("it is a hard link to {:?}, which no entry is", lossy(&target));
            self.problems.add(&name, Problem::bad(why));
        }
        Ok(())
    }

    /// A path below the root as the archive has it.
    fn outside(&self, path: &[u8]) -> Vec<u8> {
        [self.judging.root(), path].join(&b'/')
    }

    /// Remembers what an incremental backup knows of a directory and does not hold.
    fn announce(&mut self, dir: &[u8], names: &[u8]) -> Result<(), Problem> {
        for name in names.split(|b| *b == 0).filter_map(|name| name.strip_prefix(b"N")) {
            if self.announced.len() == MAX_ANNOUNCED {
                return Err(Problem::bad(
                    "it is of an incremental backup, which holds only a part",
                ));
            }
            let path = if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') };
            self.tree.hold(path.len())?;
            self.announced.push(path);
        }
        Ok(())
    }

    /// Makes directories on the way that were never named.
    fn parents(&mut self, path: &[u8]) -> Result<(), Stop> {
        for dir in self.tree.missing(path) {
            self.place(&dir, Kind::Dir, 4096)?;
            self.put(&Entry::plain(&dir, 0o755), EntryType::Directory, 0, b"", None)?;
        }
        Ok(())
    }

    /// Takes a path into the tree, in the place of what was there, and counts `bytes` for it.
    fn place(&mut self, path: &[u8], kind: Kind, bytes: u64) -> Result<(), Stop> {
        self.parents(path)?;
        let inodes = u64::from(kind != Kind::Skipped);
        let placed = self.tree.place(path, kind, bytes)?;
        self.give_back(&placed);
        if placed == Placed::Again {
            return Ok(());
        }
        Ok(self.count(inodes, bytes, path)?)
    }

    /// Counts what is gone as written in vain.
    fn give_back(&mut self, placed: &Placed) {
        if let Placed::Instead(inodes, bytes) = placed {
            self.inodes -= inodes;
            self.bytes -= bytes;
            self.passed = self.passed.saturating_add(*bytes);
        }
    }

    fn count(&mut self, inodes: u64, bytes: u64, entry: &[u8]) -> Result<(), Refused> {
        self.inodes = self.inodes.saturating_add(inodes);
        self.bytes = self.bytes.saturating_add(bytes);
        let limits = self.judging.limits;
        if self.inodes > limits.inodes {
            let limit = format!("it has more than {} files", limits.inodes);
            return Err(Refused::too_large(entry, limit));
        }
        if self.bytes > limits.bytes {
            let limit = format!("its files take more than {} bytes", limits.bytes);
            return Err(Refused::too_large(entry, limit));
        }
        Ok(())
    }

    fn extension(
        &mut self,
        entry: &[u8],
        size: u64,
        input: &mut impl Read,
    ) -> Result<Vec<u8>, Refused> {
        if size > MAX_EXTENSION {
            let limit = format!("an extended header has more than {MAX_EXTENSION} bytes");
            return Err(Refused::too_large(entry, limit));
        }
        self.pass(size, entry)?;
        let mut body = Body { input, name: entry, left: size, padding: 0 };
        let data = body.whole()?;
        skip(padding(size), input, entry)?;
        Ok(data)
    }

    /// Counts bytes that are read over.
    fn pass(&mut self, size: u64, entry: &[u8]) -> Result<(), Refused> {
        self.passed = self.passed.saturating_add(size);
        let limit = self.judging.limits.bytes;
        if self.passed > limit {
            let limit = format!("what is left out has more than {limit} bytes");
            return Err(Refused::too_large(entry, limit));
        }
        Ok(())
    }

    /// Adds a file of root's that the archive does not have.
    fn add(&mut self, path: &[u8], text: &[u8]) -> Result<(), Refused> {
        let added = self.tree.resolve(path, &self.judging.limits).map_err(Stop::Entry);
        let added = added.and_then(|path| {
            if !self.tree.has(&path) {
                self.place(&path, Kind::File, (text.len() as u64).next_multiple_of(4096))?;
                self.whole(&Entry::plain(&path, 0o644), text)?;
            }
            Ok(())
        });
        added.map_err(|stop| match stop {
            Stop::Entry(problem) => Refused::bad(path, problem.why),
            Stop::All(refused) => refused,
        })
    }

    fn finish(mut self) -> Result<Contents, Refused> {
        self.late_links()?;
        for path in std::mem::take(&mut self.announced) {
            if !self.tree.has(&path) {
                let why = "it is not in the archive, which is an incremental backup and knows it; restore \
                           it with tar after the one before it, and import the directory";
                self.problems.add(&path, Problem::bad(why));
            }
        }
        std::mem::take(&mut self.problems).refusal()?;
        let root = root::find(&self.tree)?;
        for server in &own::SERVERS {
            if server.units().iter().any(|unit| self.tree.has(unit)) {
                self.add(server.drop_in, server.text)?;
            }
            if self.tree.has(server.script) {
                self.add(server.settings, server.line)?;
            }
        }
        self.write(&[0; 1024])?;
        self.output
            .flush()
            .map_err(|source| Refused::Io { what: "write the clean archive".to_owned(), source })?;
        let has = |path: &[u8]| self.tree.has(path);
        let init = [&b"sbin/init"[..], b"usr/sbin/init"].into_iter().find_map(|init| {
            let init = self.tree.resolve(init, &self.judging.limits).ok()?;
            self.tree.kind(&init)
        });
        let init = match init {
            Some(Kind::Symlink(target)) if target.windows(7).any(|w| w == b"systemd") => {
                Init::Systemd
            }
            Some(Kind::Symlink(_)) => Init::Other,
            None | Some(Kind::Dir | Kind::Skipped) => Init::Absent,
            Some(_) if has(b"etc/inittab") || has(b"usr/share/sysvinit/inittab") => Init::Sysvinit,
            Some(_) => Init::Other,
        };
        let os = self.os_release.as_deref().map(String::from_utf8_lossy).and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
            Some(
                line.trim_matches(['"', '\''])
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(100)
                    .collect(),
            )
        });
        let mut notes = self.judging.again().map_or_else(Vec::new, |again| again.notes.clone());
        notes.extend(self.notes.lines());
        let again = self.again(root, &notes);
        if again.is_none() && init == Init::Absent {
            notes.push(
                "it has no /sbin/init, so that no container of it starts; install systemd-sysv or \
                 sysvinit-core in it and import it again"
                    .to_owned(),
            );
        }
        Ok(Contents { bytes: self.bytes, inodes: self.inodes, init, os, notes, again })
    }
}

/// The last part of a path.
fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
