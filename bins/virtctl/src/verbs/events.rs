//! `events`: what happened, as a log is read, and with `--follow` what happens from now on.
//!
//! ```text
//! watch begins ─ list, the newest that are wanted ─ printed ─ watch: what was not in the list
//!                  ▲                                            │
//!                  └────── since the last that was seen ── reset, or a cut without a place
//! ```
//!
//! Never here: a change.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use ves_proto::api::watch_events_response::Event as News;
use ves_proto::api::{
    Event, GetContainerRequest, ListEventsRequest, WatchEventsRequest, WatchEventsResponse, actor,
};
use ves_proto::public::unix_ms;
use ves_proto::{Fault, Reason};

use super::Context;
use crate::cli::{EventType, EventsArgs};
use crate::connect::Coordinator;
use crate::ct::Ct;
use crate::failure::Outcome;
use crate::names::{self, bare, ct_id};
use crate::output::{Column, Format, Output, Selection, one_line};
use crate::value::Value;

/// Events in one page; the API's greatest.
const PAGE: i32 = 1000;
/// How many are shown where nothing is asked for.
const USUAL: usize = 100;
/// How many names of events are remembered, so that none is printed twice.
const REMEMBERED: usize = 100_000;
/// From the end of a watch to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// What tables and CSV have where nothing is asked for.
const USUALLY: [&str; 5] = ["time", "type", "target", "actor", "facts"];

impl Context {
    /// The last events, oldest first; with `--follow` also each that comes.
    pub(super) async fn events(self, args: EventsArgs) -> Outcome {
        let EventsArgs { ct, follow, since, types, limit, fields, no_header } = args;
        let Self { coordinator, output, fields: from_output } = self;
        let target = match &ct {
            Some(ct) => Some(target(&coordinator, ct).await?),
            None => None,
        };
        let wanted = Wanted { target, types };
        let usual = if since.is_some() { usize::MAX } else { USUAL };
        let limit = limit.unwrap_or(usual);
        let fields = if fields.is_empty() { from_output } else { fields };
        let selection = Selection { fields, no_header, sort: None };
        if !follow {
            let events = listed(&coordinator, wanted.filter(since), limit).await?;
            return output.list(&columns(), &USUALLY, &selection, &events);
        }
        let printer = Printer { output, selection, columns: columns(), begun: false };
        // It is read at once, so that a field that is none is told before anything comes.
        printer.chosen()?;
        let broken = |e| crate::failure::Failure::local("cannot listen for signals", &e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
        tokio::select! {
            ended = followed(&coordinator, &wanted, since, limit, printer) => ended,
            _ = interrupt.recv() => Ok(()),
        }
    }
}

/// The name of what events of this container name. One that is gone is known by its id.
async fn target(coordinator: &Coordinator, ct: &Ct) -> Result<String, Fault> {
    if let Ct::Id(_) = ct {
        return Ok(names::container(ct));
    }
    let name = names::container(ct);
    let get = || {
        let mut client = coordinator.containers();
        let request = GetContainerRequest { name: name.clone() };
        async move { client.get_container(request).await }
    };
    Ok(coordinator.call(get).await?.name)
}

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
struct Wanted {
    target: Option<String>,
    types: Vec<EventType>,
}

impl Wanted {
    /// As a filter of the API; `since`: not those before, in milliseconds since 1970.
    fn filter(&self, since: Option<i64>) -> String {
        let mut terms = Vec::new();
        terms.extend(self.target.iter().map(|target| format!("target=\"{target}\"")));
        if !self.types.is_empty() {
            let types: Vec<_> =
                self.types.iter().map(|kind| format!("type={}", kind.as_api())).collect();
            terms.push(format!("({})", types.join(" OR ")));
        }
        terms.extend(since.map(|ms| format!("time>=\"{}\"", Value::Time(ms).plain())));
        terms.join(" AND ")
    }
}

/// The last that a filter lets through, oldest first.
async fn listed(
    coordinator: &Coordinator,
    filter: String,
    limit: usize,
) -> Result<Vec<Event>, Fault> {
    let (mut events, mut token) = (Vec::new(), String::new());
    while events.len() < limit {
        let left = limit.saturating_sub(events.len());
        let page_size = i32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let ask = || {
            let mut client = coordinator.events();
            let (page_token, filter) = (token.clone(), filter.clone());
            let request = ListEventsRequest { page_size, page_token, filter };
            async move { client.list_events(request).await }
        };
        let page = coordinator.call(ask).await?;
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    events.truncate(limit);
    events.reverse();
    Ok(events)
}

/// Prints what there is and what comes, until that fails for good.
async fn followed(
    coordinator: &Coordinator,
    wanted: &Wanted,
    since: Option<i64>,
    limit: usize,
    mut printer: Printer,
) -> Outcome {
    let mut view = View { since, limit, ..View::default() };
    loop {
        let watch = || {
            let mut client = coordinator.events();
            let (resume_token, filter) = (view.token.clone(), wanted.filter(None));
            let request = WatchEventsRequest { resume_token, filter, heartbeat: None };
            async move { client.watch_events(request).await }
        };
        let mut stream = coordinator.call(watch).await?;
        loop {
            match stream.message().await {
                Ok(Some(told)) => match view.take(told) {
                    Next::Print(event) => printer.print(&event)?,
                    Next::List { since, limit } => {
                        let filter = wanted.filter(since);
                        for event in view.unseen(listed(coordinator, filter, limit).await?) {
                            printer.print(&event)?;
                        }
                    }
                    Next::Lost(why) => printer.output.say(&format!("note: {why}")),
                    Next::Nothing => {}
                },
                Ok(None) => break,
                Err(status) => {
                    let fault = coordinator.fault(status);
                    match fault.reason {
                        // A coordinator that restarts is asked for what came meanwhile.
                        Reason::PeerDown | Reason::Starting | Reason::Cancelled => break,
                        _ => return Err(fault.into()),
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a message of a watch makes to do.
#[derive(Debug, PartialEq)]
enum Next {
    Nothing,
    Print(Box<Event>),
    /// All that were before, as far as they were not seen.
    List {
        since: Option<i64>,
        limit: usize,
    },
    /// Some may be lost.
    Lost(String),
}

/// What a watch told so far.
#[derive(Debug, Default)]
struct View {
    /// That of the last message.
    token: String,
    /// Since when and how many are to be listed that were before the watch; none: they were.
    since: Option<i64>,
    limit: usize,
    /// Those before this place are to be listed when the watch has come to it.
    listed: bool,
    /// The last ones that were seen, oldest first, the same to be asked, and when the last was.
    names: VecDeque<String>,
    seen: HashSet<String>,
    last_ms: Option<i64>,
}

impl View {
    fn take(&mut self, told: WatchEventsResponse) -> Next {
        let WatchEventsResponse { resume_token, event } = told;
        if !resume_token.is_empty() {
            self.token = resume_token;
        }
        match event {
            Some(News::Happened(event)) => self
                .unseen(vec![event])
                .pop()
                .map_or(Next::Nothing, |event| Next::Print(Box::new(event))),
            // Where nothing was seen, what was to be listed in the beginning is.
            Some(News::Reset(reset)) => {
                if self.listed {
                    self.listed = false;
                    (self.since, self.limit) = (self.last_ms.or(self.since), usize::MAX);
                }
                Next::Lost(reset.why)
            }
            Some(News::Synced(_)) if !self.listed => {
                self.listed = true;
                Next::List { since: self.since, limit: self.limit }
            }
            Some(News::Synced(_) | News::Heartbeat(_)) | None => Next::Nothing,
        }
    }

    /// Those that were not seen before; they are seen now.
    fn unseen(&mut self, events: Vec<Event>) -> Vec<Event> {
        let mut unseen = Vec::new();
        for event in events {
            if !self.seen.insert(event.name.clone()) {
                continue;
            }
            self.names.push_back(event.name.clone());
            if self.names.len() > REMEMBERED
                && let Some(oldest) = self.names.pop_front()
            {
                self.seen.remove(&oldest);
            }
            self.last_ms = event.time.as_ref().map(unix_ms).or(self.last_ms);
            unseen.push(event);
        }
        unseen
    }
}

/// Prints events one at a time, as they come.
struct Printer {
    output: Output,
    selection: Selection,
    columns: Vec<Column<Event>>,
    /// The header was printed, if there is one.
    begun: bool,
}

impl Printer {
    fn chosen(&self) -> Result<Vec<&Column<Event>>, crate::failure::Failure> {
        self.output.chosen(&self.columns, &USUALLY, &self.selection)
    }

    fn print(&mut self, event: &Event) -> Outcome {
        let chosen = self.chosen()?;
        let value =
            || Value::Map(chosen.iter().map(|c| (c.name.clone(), (c.get)(event))).collect());
        let header = !self.begun && !self.selection.no_header;
        let text = match self.output.format {
            Format::Json => {
                let line = serde_json::to_string(&value());
                line.map_err(|e| crate::failure::Failure::from(std::io::Error::other(e)))? + "\n"
            }
            Format::Yaml => {
                self.output.print("---\n")?;
                return self.output.value(&value());
            }
            Format::Csv => {
                let selection = Selection { no_header: !header, ..self.selection.clone() };
                let event = std::slice::from_ref(event);
                self.output.list(&self.columns, &USUALLY, &selection, event)?;
                self.begun = true;
                return Ok(());
            }
            Format::Table => {
                let header = header
                    .then(|| line(chosen.iter().map(|c| (c.name.as_str(), c.header.clone()))));
                let cells = chosen.iter().map(|c| (c.name.as_str(), (c.get)(event).human()));
                header.unwrap_or_default() + &line(cells)
            }
        };
        self.begun = true;
        self.output.print(&text)
    }
}

/// A line of cells, each by its column; wide enough for what usually is in it.
fn line<'c>(cells: impl Iterator<Item = (&'c str, String)>) -> String {
    let mut line = String::new();
    for (name, cell) in cells {
        let width = match name {
            "time" => 19,
            "type" => 17,
            "target" | "project" | "node" => 16,
            "actor" | "on_behalf_of" => 10,
            "name" | "operation" | "uid" => 36,
            _ => 8,
        };
        line += &format!("{:<width$}  ", one_line(&cell));
    }
    line.trim_end().to_owned() + "\n"
}

fn type_name(event: &Event) -> String {
    EventType::shown(event.r#type())
}

fn columns() -> Vec<Column<Event>> {
    vec![
        Column::new("name", |e: &Event| Value::text(bare(&e.name))),
        Column::new("time", |e: &Event| Value::maybe_time(e.time.as_ref().map(unix_ms))),
        Column::new("type", |e: &Event| Value::text(type_name(e))),
        Column::new("target", |e: &Event| Value::text(&e.target)),
        Column::right("ctid", |e: &Event| Value::maybe(ct_id(&e.target))),
        Column::new("uid", |e: &Event| Value::text(&e.uid)),
        Column::new("project", |e: &Event| Value::text(bare(&e.project))),
        Column::new("node", |e: &Event| Value::text(bare(&e.node))),
        Column::new("actor", |e: &Event| match &e.actor {
            Some(actor) if actor.r#type() == actor::Type::Guest => Value::text("container"),
            Some(actor) => Value::text(&actor.id),
            None => Value::Null,
        }),
        Column::new("on_behalf_of", |e: &Event| {
            e.actor.as_ref().map_or(Value::Null, |actor| Value::text(&actor.on_behalf_of))
        }),
        Column::new("operation", |e: &Event| Value::text(bare(&e.operation))),
        Column::new("facts", |e: &Event| {
            let mut facts: Vec<_> = e.facts.iter().collect();
            facts.sort_unstable();
            Value::Map(facts.into_iter().map(|(k, v)| (k.clone(), Value::text(v))).collect())
        }),
    ]
}

#[cfg(test)]
mod tests {
    use ves_proto::api::{Heartbeat, Reset, Synced};
    use ves_proto::public::timestamp;

    use super::*;

    fn event(n: i64) -> Event {
        Event { name: format!("events/{n}"), time: Some(timestamp(n)), ..Event::default() }
    }

    fn told(token: &str, event: News) -> WatchEventsResponse {
        WatchEventsResponse { resume_token: token.to_owned(), event: Some(event) }
    }

    #[test]
    fn what_was_listed_is_not_printed_again_and_what_is_lost_is_listed() {
        let mut view = View { since: Some(5), limit: 3, ..View::default() };
        let list = Next::List { since: Some(5), limit: 3 };
        assert_eq!(view.take(told("a", News::Synced(Synced {}))), list);
        assert_eq!(view.unseen(vec![event(7), event(8)]), [event(7), event(8)]);
        assert_eq!(view.take(told("b", News::Happened(event(8)))), Next::Nothing);
        assert_eq!(view.take(told("c", News::Happened(event(9)))), Next::Print(Box::new(event(9))));
        assert_eq!(view.take(told("c", News::Heartbeat(Heartbeat::default()))), Next::Nothing);
        assert_eq!(view.take(told("c", News::Synced(Synced {}))), Next::Nothing, "it was");
        assert_eq!(view.token, "c");
        let reset = News::Reset(Reset { why: "they were forgotten".to_owned() });
        assert_eq!(view.take(told("d", reset)), Next::Lost("they were forgotten".to_owned()));
        let list = Next::List { since: Some(9), limit: usize::MAX };
        assert_eq!(view.take(told("d", News::Synced(Synced {}))), list);
        assert_eq!(view.unseen(vec![event(9), event(12)]), [event(12)]);
    }

    #[test]
    fn a_filter_of_what_is_wanted() {
        let types = ["started", "OUT-OF-MEMORY"].map(|t| t.parse().expect("one")).to_vec();
        let wanted = Wanted { target: Some("containers/101".to_owned()), types };
        assert_eq!(
            wanted.filter(Some(0)),
            "target=\"containers/101\" AND (type=STARTED OR type=OUT_OF_MEMORY) AND \
             time>=\"1970-01-01T00:00:00Z\""
        );
        assert_eq!(Wanted::default().filter(None), "");
    }

    #[test]
    fn a_line_breaks_no_terminal() {
        let cells = [("type", "started".to_owned()), ("facts", "a\u{1b}[2Jb\nc".to_owned())];
        assert_eq!(line(cells.into_iter()), "started            a [2Jb c\n");
    }
}
