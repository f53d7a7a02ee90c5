//! Words of `events`: which events, since when, and how they are shown.
//!
//! Pure but for the time of day. Never here: how they are asked for.

use clap::Args;
use ves_proto::api::event::Type;

use crate::ct::Ct;

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only those of this container, by id or name; one that is gone is known by its id
    #[arg(value_name = "CT")]
    pub(crate) ct: Option<Ct>,
    /// Go on until Ctrl-C; with -o json each event is a line
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Not those before: 90s, 30m, 12h or 7d ago, a date, or a time as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    pub(crate) since: Option<i64>,
    /// Only those of these types, such as started or out_of_memory
    #[arg(long = "type", value_name = "TYPE,TYPE", value_delimiter = ',')]
    pub(crate) types: Vec<EventType>,
    /// The last N; without this and --since the last 100
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Columns to show, in this order
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    /// Leave the header out
    #[arg(short = 'H', long)]
    pub(crate) no_header: bool,
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventType(Type);

impl EventType {
    /// As filters of the API have it.
    pub(crate) fn as_api(self) -> &'static str {
        let name = self.0.as_str_name();
        name.strip_prefix("TYPE_").unwrap_or(name)
    }

    /// As it is shown.
    pub(crate) fn shown(of: Type) -> String {
        Self(of).as_api().to_ascii_lowercase()
    }
}

impl std::str::FromStr for EventType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = text.to_ascii_uppercase().replace('-', "_");
        let name = format!("TYPE_{}", word.strip_prefix("TYPE_").unwrap_or(&word));
        let known = Type::from_str_name(&name).filter(|kind| *kind != Type::Unspecified);
        known.map(Self).ok_or_else(|| {
            let all = (1..=i32::from(u8::MAX)).filter_map(|n| Type::try_from(n).ok());
            let all: Vec<_> = all.map(Self::shown).collect();
            format!("there are: {}", all.join(", "))
        })
    }
}

/// A moment in milliseconds since 1970.
fn since(text: &str) -> Result<i64, String> {
    moment(text, jiff::Timestamp::now().as_millisecond()).ok_or_else(|| {
        "must be 90s, 30m, 12h, 7d, a date, or a time such as 2026-01-31T12:00:00Z".to_owned()
    })
}

fn moment(text: &str, now_ms: i64) -> Option<i64> {
    let ago = |unit: char, ms: i64| {
        let count: i64 = text.strip_suffix(unit)?.parse().ok()?;
        now_ms.checked_sub(count.checked_mul(ms)?).filter(|_| count >= 0)
    };
    let ago = ago('s', 1000)
        .or_else(|| ago('m', 60_000))
        .or_else(|| ago('h', 3_600_000))
        .or_else(|| ago('d', 86_400_000));
    let exact = || text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
    // Without a zone it is that of whoever types.
    let local = || {
        let time: jiff::civil::DateTime = text.parse().ok()?;
        let time = time.to_zoned_datetime(jiff::tz::TimeZone::system()).ok()?;
        Some(time.timestamp().as_millisecond())
    };
    ago.or_else(exact).or_else(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now = 1_700_000_000_000;
        for (text, ms) in [
            ("0s", now),
            ("90s", now - 90_000),
            ("2h", now - 7_200_000),
            ("7d", now - 604_800_000),
            ("1970-01-02T00:00:00Z", 86_400_000),
            ("1970-01-01T01:00:00+01:00", 0),
        ] {
            assert_eq!(moment(text, now), Some(ms), "{text}");
        }
        assert!(moment("2026-01-31", now).is_some() && moment("2026-01-31 12:00", now).is_some());
        for bad in ["", "x", "-1h", "7", "h", "99999999999999999d", "2026-13-01", "\u{e9}"] {
            assert_eq!(moment(bad, now), None, "{bad:?}");
        }
    }

    #[test]
    fn types_are_taken_as_they_are_shown_and_as_the_api_has_them() {
        for text in ["started", "STARTED", "TYPE_STARTED"] {
            assert_eq!(text.parse(), Ok(EventType(Type::Started)), "{text}");
        }
        let memory: EventType = "out-of-memory".parse().expect("one");
        assert_eq!(
            (memory.as_api(), EventType::shown(memory.0)),
            ("OUT_OF_MEMORY", "out_of_memory".to_owned())
        );
        let told = "unspecified".parse::<EventType>().expect_err("none");
        assert!(told.contains("created, deleted") && told.ends_with("events_lost"), "{told}");
    }
}
