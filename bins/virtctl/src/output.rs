//! How answers look: tables for people; JSON, YAML and CSV for programs; all from one value.
//!
//! A list is rows and columns; each column has a name for `--fields` and a function from the row to
//! a [`Value`]. The table shows sizes and times as people read them, the rest as numbers and RFC
//! 3339. Never here: what a column means.

use std::io::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use ves_types::{Bytes, Limit};

use crate::failure::{Failure, Outcome};

/// What `-o` chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
    /// RFC 4180 with a header; lists only.
    Csv,
}

impl Format {
    /// The format of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "table" => Some(Self::Table),
            "json" => Some(Self::Json),
            "yaml" => Some(Self::Yaml),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// Something to show. Maps keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Not known or not there.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A count.
    Num(u64),
    /// A number that may be negative.
    Int(i64),
    /// A size in bytes.
    Bytes(u64),
    /// A moment, in milliseconds since 1970.
    Time(i64),
    /// A duration in milliseconds; programs read it in seconds.
    Millis(u64),
    /// A number in tenths.
    Tenths(u64),
    /// Words.
    Text(String),
    /// Several.
    List(Vec<Value>),
    /// Named ones.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// Words; none of them is [`Value::Null`].
    pub(crate) fn text(text: impl AsRef<str>) -> Self {
        match text.as_ref() {
            "" => Self::Null,
            text => Self::Text(text.to_owned()),
        }
    }
    /// A list of words.
    pub(crate) fn texts<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::List(texts.into_iter().map(|t| Self::Text(t.as_ref().to_owned())).collect())
    }
    /// A map with literal names.
    pub(crate) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    }
    /// A number or the word `unlimited`.
    pub(crate) fn limit(limit: Limit) -> Self {
        limit.max().map_or_else(|| Self::text("unlimited"), Self::Num)
    }
    /// A duration.
    pub(crate) fn millis(duration: std::time::Duration) -> Self {
        Self::Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
    /// A number where there is one.
    pub(crate) fn maybe(number: Option<impl Into<u64>>) -> Self {
        number.map_or(Self::Null, |n| Self::Num(n.into()))
    }

    /// As people read it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Null => "-".into(),
            Self::Bytes(n) => Bytes(*n).to_string(),
            Self::Time(ms) => timestamp(*ms, "%Y-%m-%d %H:%M:%S"),
            Self::Millis(ms) => took(std::time::Duration::from_millis(*ms)),
            Self::List(items) if items.is_empty() => "-".into(),
            Self::List(items) => join(items, Self::shown, ","),
            Self::Map(entries) if entries.is_empty() => "-".into(),
            Self::Map(entries) => {
                let pairs: Vec<_> =
                    entries.iter().map(|(k, v)| format!("{k}={}", v.shown())).collect();
                pairs.join(",")
            }
            Self::Bool(_) | Self::Num(_) | Self::Int(_) | Self::Tenths(_) | Self::Text(_) => {
                self.plain()
            }
        }
    }

    /// As a cell of CSV.
    pub(crate) fn plain(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(true) => "yes".into(),
            Self::Bool(false) => "no".into(),
            Self::Num(n) | Self::Bytes(n) => n.to_string(),
            Self::Millis(n) => format!("{}.{:03}", n / 1000, n % 1000),
            Self::Int(n) => n.to_string(),
            Self::Tenths(n) => format!("{}.{}", n / 10, n % 10),
            Self::Time(ms) => rfc3339(*ms),
            Self::Text(text) => text.clone(),
            Self::List(items) => join(items, Self::plain, " "),
            Self::Map(entries) => {
                let pairs: Vec<_> =
                    entries.iter().map(|(k, v)| format!("{k}={}", v.plain())).collect();
                pairs.join(" ")
            }
        }
    }

    fn number(&self) -> Option<i128> {
        match self {
            Self::Num(n) | Self::Bytes(n) | Self::Millis(n) | Self::Tenths(n) => {
                Some(i128::from(*n))
            }
            Self::Int(n) | Self::Time(n) => Some(i128::from(*n)),
            Self::Null => Some(-1),
            Self::Bool(_) | Self::Text(_) | Self::List(_) | Self::Map(_) => None,
        }
    }
}

fn join(items: &[Value], show: fn(&Value) -> String, by: &str) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(by)
}

fn timestamp(ms: i64, pattern: &str) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| "-".into(),
        |t| t.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime(pattern).to_string(),
    )
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| t.to_string())
}

/// A duration as people read it.
pub(crate) fn took(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_none(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Num(n) | Self::Bytes(n) => s.serialize_u64(*n),
            Self::Int(n) => s.serialize_i64(*n),
            // As written they have one and three decimals, which a double keeps.
            Self::Tenths(_) | Self::Millis(_) => {
                s.serialize_f64(self.plain().parse().unwrap_or_default())
            }
            Self::Time(ms) => s.serialize_str(&rfc3339(*ms)),
            Self::Text(text) => s.serialize_str(text),
            Self::List(items) => s.collect_seq(items),
            Self::Map(entries) => {
                let mut map = s.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// One column of a list.
pub(crate) struct Column<T> {
    /// What `--fields` and JSON call it.
    pub(crate) name: String,
    /// What stands above it.
    pub(crate) header: String,
    /// Whether it is a number, aligned to the right.
    pub(crate) right: bool,
    /// What a row has there.
    pub(crate) get: Box<dyn Fn(&T) -> Value>,
}

impl<T> Column<T> {
    /// A column of words, headed by its name.
    pub(crate) fn new(name: &str, get: impl Fn(&T) -> Value + 'static) -> Self {
        let header = name.to_ascii_uppercase();
        Self { name: name.to_owned(), header, right: false, get: Box::new(get) }
    }
    /// A column of numbers, headed by its name.
    pub(crate) fn right(name: &str, get: impl Fn(&T) -> Value + 'static) -> Self {
        Self { right: true, ..Self::new(name, get) }
    }
    /// The same under another heading.
    #[must_use]
    pub(crate) fn headed(mut self, header: &str) -> Self {
        header.clone_into(&mut self.header);
        self
    }
}

/// Which columns of a list, in which order, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Names; empty: the list's own choice.
    pub(crate) fields: Vec<String>,
    /// Leave the header out.
    pub(crate) no_header: bool,
    /// The column to sort by, and whether backwards.
    pub(crate) sort: Option<(String, bool)>,
}

/// What was asked of the output.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Output {
    /// The form.
    pub(crate) format: Format,
    /// Nothing but errors and what was asked for.
    pub(crate) quiet: bool,
    /// Steps too.
    pub(crate) verbose: bool,
}

impl Output {
    /// Prints a list. Without `--fields`, tables and CSV have the columns named in `usual`, JSON
    /// and YAML have all.
    pub(crate) fn list<T>(
        self,
        columns: &[Column<T>],
        usual: &[&str],
        selection: &Selection,
        rows: &[T],
    ) -> Outcome {
        let mut rows: Vec<&T> = rows.iter().collect();
        if let Some((name, backwards)) = &selection.sort {
            let column = find(columns, name)?;
            rows.sort_by_cached_key(|row| {
                let value = (column.get)(row);
                (value.number(), value.plain())
            });
            if *backwards {
                rows.reverse();
            }
        }
        let all = matches!(self.format, Format::Json | Format::Yaml);
        let chosen: Vec<&Column<T>> = if !selection.fields.is_empty() {
            selection.fields.iter().map(|f| find(columns, f)).collect::<Result<_, _>>()?
        } else if all {
            columns.iter().collect()
        } else {
            usual.iter().map(|f| find(columns, f)).collect::<Result<_, _>>()?
        };
        match self.format {
            Format::Json | Format::Yaml => {
                let items = rows.iter().map(|row| {
                    Value::Map(chosen.iter().map(|c| (c.name.clone(), (c.get)(row))).collect())
                });
                self.value(&Value::List(items.collect()))
            }
            Format::Table => {
                let cells = rows
                    .iter()
                    .map(|row| chosen.iter().map(|c| (c.get)(row).shown()).collect())
                    .collect();
                let header = (!selection.no_header)
                    .then(|| chosen.iter().map(|c| c.header.clone()).collect());
                let right: Vec<bool> = chosen.iter().map(|c| c.right).collect();
                self.print(&table(header, cells, &right))
            }
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(Vec::new());
                if !selection.no_header {
                    csv.write_record(chosen.iter().map(|c| &c.name)).map_err(broken)?;
                }
                for row in rows {
                    csv.write_record(chosen.iter().map(|c| (c.get)(row).plain()))
                        .map_err(broken)?;
                }
                let bytes = csv.into_inner().map_err(|e| Failure::from(e.into_error()))?;
                self.print(&String::from_utf8_lossy(&bytes))
            }
        }
    }

    /// Prints one thing: as a document, or its entries one a line.
    pub(crate) fn value(self, value: &Value) -> Outcome {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value)
                .map(|t| t + "\n")
                .map_err(|e| Failure::from(std::io::Error::other(e)))?,
            Format::Yaml => serde_yaml_ng::to_string(value)
                .map_err(|e| Failure::from(std::io::Error::other(e)))?,
            Format::Table | Format::Csv => match value {
                Value::Map(entries) => {
                    let cells = entries.iter().map(|(k, v)| vec![k.clone(), v.shown()]).collect();
                    table(None, cells, &[false, false])
                }
                other => other.shown() + "\n",
            },
        };
        self.print(&text)
    }

    /// Prints text as it is.
    pub(crate) fn print(self, text: &str) -> Outcome {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// Says on stderr what is going on, unless that is not wanted.
    pub(crate) fn say(self, line: &str) {
        if !self.quiet {
            writeln!(std::io::stderr(), "{line}").ok(); // nowhere else to say it
        }
    }
}

fn find<'a, T>(columns: &'a [Column<T>], name: &str) -> Result<&'a Column<T>, Failure> {
    columns.iter().find(|c| c.name == name).ok_or_else(|| {
        let names: Vec<_> = columns.iter().map(|c| c.name.as_str()).collect();
        Failure::usage(format!("no field is called {name:?}; there are: {}", names.join(", ")))
    })
}

fn broken(error: csv::Error) -> Failure {
    Failure::from(std::io::Error::other(error))
}

fn table(header: Option<Vec<String>>, cells: Vec<Vec<String>>, right: &[bool]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(header) = header {
        table.set_header(header);
    }
    for row in cells {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for (index, right) in right.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if *right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text: String =
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<Vec<_>>().concat();
    if text == "\n" {
        text.clear();
    }
    text
}

/// A cell must not break the table or the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_trailing_space() {
        let text = table(
            Some(vec!["CTID".into(), "NAME".into()]),
            vec![vec!["1".into(), "a\tb\u{1b}[31m".into()], vec!["10001".into(), "-".into()]],
            &[true, false],
        );
        assert_eq!(text, " CTID  NAME\n    1  a b [31m\n10001  -\n");
        assert_eq!(table(None, vec![], &[]), "");
    }

    #[test]
    fn values_keep_their_order_in_json() {
        let value = Value::map([("z", Value::Num(1)), ("a", Value::Null), ("t", Value::Time(0))]);
        assert_eq!(
            serde_json::to_string(&value).expect("it is a plain value"),
            r#"{"z":1,"a":null,"t":"1970-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn durations() {
        let shown = |ms| took(std::time::Duration::from_millis(ms));
        assert_eq!(shown(7), "7 ms");
        assert_eq!(shown(1_250), "1.2 s");
        assert_eq!(shown(61_000), "1 min 1 s");
        assert_eq!(shown(7_260_000), "2 h 1 min");
    }

    #[test]
    fn cells() {
        assert_eq!(Value::List(vec![]).shown(), "-");
        assert_eq!(Value::texts(["a", "b"]).shown(), "a,b");
        assert_eq!(Value::texts(["a", "b"]).plain(), "a b");
        assert_eq!(Value::Bytes(1 << 30).shown(), "1 GiB");
        assert_eq!(Value::Bytes(1 << 30).plain(), "1073741824");
        assert_eq!(Value::limit(Limit::Unlimited).shown(), "unlimited");
    }
}
