//! `EventService`: lists and watches of what happened. What is not of the caller's projects is not there for it.
//!
//! Events are read from the store a few at a time, so that neither a long list nor a slow watcher costs memory.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use ves_daemon::Principal;
use ves_proto::Fault;
use ves_proto::api as pb;
use ves_proto::api::event_service_server::EventService;
use ves_proto::api::watch_events_response::Event as News;
use ves_proto::public::timestamp;

use super::page::Page;
use super::watch::heartbeat;
use super::{Answers, Api};
use crate::events::token::Place;
use crate::filter::{Filter, fields};
use crate::open_streams::StreamKind;
use crate::store::log::Log;
use crate::wrong::{Wrong, bad};

/// How many are read of the store at once.
const TOGETHER: usize = 256;
/// How many are looked at for one page: a filter that few pass answers with a short page and where to go on.
const LOOKED_AT: usize = 20_000;

/// The events of one caller.
#[derive(Debug)]
struct Seen {
    api: Api,
    principal: Principal,
    filter: Filter,
}

impl Seen {
    fn has(&self, event: &pb::Event) -> bool {
        let project = event.project.strip_prefix("projects/");
        self.api.sees(&self.principal, project)
            && self.filter.matches(|path| fields::event_value(event, path))
    }

    /// The place after the newest event.
    async fn newest(&self) -> Result<Place, Fault> {
        let last = self.api.0.events_before(None, 1).await?;
        Ok(last.first().map(|(number, event)| Place::after(*number, event)).unwrap_or_default())
    }

    /// The place that a token leads to, where all that came after it is still there.
    async fn place(&self, token: &str) -> Result<Option<Place>, Fault> {
        let Some(place) = Place::parse(token) else { return Ok(None) };
        let Some(before) = place.number.checked_sub(1) else {
            let first = self.api.0.state().read().log().first;
            return Ok(Some(place).filter(|_| first == 1));
        };
        let found = self.api.0.events_after(before, 1).await?;
        let there = found.first().is_some_and(|(number, event)| place.is_after(*number, event));
        Ok(Some(place).filter(|_| there))
    }
}

/// A watcher and how far it is.
#[derive(Debug)]
struct Watcher {
    seen: Seen,
    ticks: watch::Receiver<Log>,
    place: Place,
    queue: VecDeque<(u64, pb::Event)>,
    /// Why some are lost to it, where they are.
    lost: Option<&'static str>,
    synced: bool,
    heartbeat: Duration,
    told: Instant,
}

impl Watcher {
    async fn next(&mut self) -> Result<pb::WatchEventsResponse, Fault> {
        let news = self.news().await?;
        self.told = self.seen.api.0.clock().instant();
        Ok(pb::WatchEventsResponse { resume_token: self.place.token(), event: Some(news) })
    }

    async fn news(&mut self) -> Result<News, Fault> {
        loop {
            while let Some((number, event)) = self.queue.pop_front() {
                if number != self.place.number.saturating_add(1) {
                    self.lost = Some("events were forgotten before they could be told");
                    break;
                }
                self.place = Place::after(number, &event);
                if self.seen.has(&event) {
                    return Ok(News::Happened(event));
                }
            }
            if let Some(why) = self.lost.take() {
                self.queue.clear();
                self.place = self.seen.newest().await?;
                self.synced = false;
                return Ok(News::Reset(pb::Reset { why: why.to_owned() }));
            }
            self.ticks.borrow_and_update();
            let later = self.seen.api.0.events_after(self.place.number, TOGETHER).await?;
            if !later.is_empty() {
                self.queue.extend(later);
                continue;
            }
            if !std::mem::replace(&mut self.synced, true) {
                return Ok(News::Synced(pb::Synced {}));
            }
            let clock = self.seen.api.0.clock();
            let silent = clock.until(self.told + self.heartbeat);
            tokio::select! {
                biased;
                () = silent => {
                    let time = Some(timestamp(clock.now_ms()));
                    return Ok(News::Heartbeat(pb::Heartbeat { time }));
                }
                changed = self.ticks.changed() => {
                    // Its sender lives as long as the coordinator.
                    changed.map_err(|_| Fault::new(ves_proto::Reason::Starting, "the coordinator ends"))?;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl EventService for Api {
    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let principal = ves_daemon::principal(&request);
        let pb::ListEventsRequest { page_size, page_token, filter } = request.into_inner();
        let mut wrong = Wrong::default();
        let scope = ["events", filter.as_str()];
        let page = Page::read(page_size, &page_token, (100, 1000), &scope, &mut wrong);
        let filter = wrong.take(Filter::parse(&filter, fields::EVENT));
        wrong.end()?;
        let (Some(page), Some(filter)) = (page, filter) else {
            return Err(Fault::missing("filter").into());
        };
        let mut before = match &page.after {
            None => None,
            Some(number) => {
                let none = |_| bad("page_token", "the page token is none of ours");
                Some(number.parse::<u64>().map_err(none)?)
            }
        };
        let seen = Seen { api: self.clone(), principal, filter };
        let (mut events, mut looked_at, mut ended) = (Vec::new(), 0_usize, false);
        while events.len() < page.size && looked_at < LOOKED_AT && !ended {
            let earlier = self.0.events_before(before, TOGETHER).await?;
            ended = earlier.len() < TOGETHER;
            for (number, event) in earlier {
                if events.len() == page.size {
                    ended = false;
                    break;
                }
                looked_at = looked_at.saturating_add(1);
                before = Some(number);
                if seen.has(&event) {
                    events.push(event);
                }
            }
        }
        let last = before.filter(|_| !ended);
        let next_page_token =
            last.map(|number| page.token(&number.to_string())).unwrap_or_default();
        Ok(Response::new(pb::ListEventsResponse { events, next_page_token }))
    }

    type WatchEventsStream = Answers<pb::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let principal = ves_daemon::principal(&request);
        let pb::WatchEventsRequest { resume_token, filter, heartbeat: asked } =
            request.into_inner();
        let mut wrong = Wrong::default();
        let filter = wrong.take(Filter::parse(&filter, fields::EVENT));
        let heartbeat = wrong.take(heartbeat(asked.as_ref()));
        wrong.end()?;
        let seen = Seen { api: self.clone(), principal, filter: filter.unwrap_or_default() };
        let ticks = self.0.state().new_events();
        let (place, lost) = match resume_token.as_str() {
            "" => (seen.newest().await?, None),
            token => match seen.place(token).await? {
                Some(place) => (place, None),
                None => (Place::default(), Some("what came after the token is not known any more")),
            },
        };
        let watcher = Watcher {
            seen,
            ticks,
            place,
            queue: VecDeque::new(),
            lost,
            synced: false,
            heartbeat: heartbeat.unwrap_or_default(),
            told: self.0.clock().instant(),
        };
        let stream = futures::stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(news) => Some((Ok(news), Some(watcher))),
                Err(fault) => Some((Err(fault.into()), None)),
            }
        });
        Ok(self.counted(Box::pin(stream), StreamKind::Events))
    }
}
