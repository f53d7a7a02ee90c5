//! Templates in memory: what each step of their plan does.

use std::collections::BTreeMap;
use std::io::Read;

use ves_archive::{Contents, Feed, Init, Judging, Limits, normalise};
use ves_types::TemplateName;

use crate::error::Error;
use crate::host::{Making, Source, Template};
use crate::plan::TemplateFacts;
use crate::plan::template::{Observed, Step, Taken};
use crate::template::{BuildInit, Progress};

/// A template, whole or not.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) template: Template,
    pub(super) facts: TemplateFacts,
    pub(super) archive: Vec<u8>,
}

/// All of a node.
#[derive(Debug, Default)]
pub(super) struct Templates {
    pub(super) published: BTreeMap<TemplateName, Made>,
    unfinished: BTreeMap<TemplateName, Made>,
}

impl Made {
    /// One of these contents, without a base image.
    pub(super) fn new(name: &TemplateName, contents: Contents, archive: Vec<u8>) -> Self {
        let Contents { bytes, inodes, init, os, notes, .. } = contents;
        let template = Template {
            name: name.clone(),
            content_bytes: bytes,
            content_inodes: inodes,
            allocated: bytes,
            init,
            sha256: "0".repeat(64),
            os,
            created_unix: 0,
            notes,
        };
        let facts = TemplateFacts {
            content_bytes: bytes,
            content_inodes: inodes,
            variants: BTreeMap::new(),
        };
        Self { template, facts, archive }
    }
}

/// Contents as a build makes them.
pub(super) fn built(init: Init) -> Contents {
    let os = Some("Fake GNU/Linux".to_owned());
    Contents::new(200 << 20, 10_000, init, os)
}

/// Judges an archive as on a real host; the fake does not hash.
pub(super) fn take(name: &TemplateName, making: &mut Making<'_, '_>) -> Result<Made, Error> {
    let tell =
        |what: &str, done| (making.progress)(Progress { what: what.to_owned(), done, total: 2 });
    tell("unpacking", 0);
    let mut archive = Vec::new();
    let contents = match making.source.take() {
        Some(Source::Archive { feed, sha256: _, owners }) => {
            let judging = Judging::new(Limits::default(), owners);
            let found = normalise(Pieces::new(feed), &mut archive, &judging)?;
            match judging.once_more(&found) {
                None => found,
                Some(judging) => {
                    let first = std::mem::take(&mut archive);
                    normalise(first.as_slice(), &mut archive, &judging)?
                }
            }
        }
        Some(Source::Build(build)) => {
            tell("configuring", 1);
            built(match build.init {
                BuildInit::Systemd => Init::Systemd,
                BuildInit::Sysvinit => Init::Sysvinit,
            })
        }
        None => return Err(Error::TemplateUnknown(name.clone())),
    };
    (making.allow)(archive.len() as u64)?;
    making.taken = Some((contents.clone(), "0".repeat(64)));
    Ok(Made::new(name, contents, archive))
}

impl Templates {
    pub(super) fn observe(&self, name: &TemplateName) -> Observed {
        let published = self.published.get(name);
        let base_images =
            published.or_else(|| self.unfinished.get(name)).map(|k| &k.facts.variants);
        Observed {
            published: published.is_some(),
            unfinished: self.unfinished.contains_key(name),
            contents: published.map_or_else(Taken::default, |kept| Taken {
                bytes: kept.template.content_bytes,
                inodes: kept.template.content_inodes,
            }),
            base_images: base_images
                .into_iter()
                .flatten()
                .map(|(number, _)| (*number, 0))
                .collect(),
        }
    }

    /// What it takes, whole or not.
    pub(super) fn takes(&self, name: &TemplateName) -> u64 {
        let kept = self.published.get(name).or_else(|| self.unfinished.get(name));
        kept.map_or(0, |kept| kept.template.allocated)
    }

    /// Archives are taken by [`take`], and given here.
    pub(super) fn taken(&mut self, kept: Made) {
        self.unfinished.insert(kept.template.name.clone(), kept);
    }

    pub(super) fn apply(&mut self, name: &TemplateName, step: &Step) {
        let kept = self.published.get_mut(name).or_else(|| self.unfinished.get_mut(name));
        match (step, kept) {
            (Step::MakeBaseImage { inodes_per_group, bytes }, Some(kept)) => {
                kept.facts.variants.insert(*inodes_per_group, *bytes);
            }
            (Step::RemoveBaseImage { inodes_per_group }, Some(kept)) => {
                kept.facts.variants.remove(inodes_per_group);
            }
            (Step::Discard, _) => {
                self.unfinished.remove(name);
            }
            (Step::Publish, _) => {
                self.published.extend(self.unfinished.remove_entry(name));
            }
            (Step::Withdraw, _) => {
                self.unfinished.extend(self.published.remove_entry(name));
            }
            (_, _) => {}
        }
    }
}

/// A feed as a reader.
struct Pieces<'a> {
    feed: &'a mut (dyn Feed + 'a),
    piece: std::io::Cursor<Vec<u8>>,
}

impl<'a> Pieces<'a> {
    fn new(feed: &'a mut (dyn Feed + 'a)) -> Self {
        Self { feed, piece: std::io::Cursor::default() }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let n = self.piece.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            match self.feed.next()? {
                None => return Ok(0),
                Some(piece) => self.piece = std::io::Cursor::new(piece),
            }
        }
    }
}
