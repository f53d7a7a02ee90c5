//! How answers look: tables for people; JSON, YAML and CSV for programs; all from one value.
//!
//! A list is rows and columns; each column has a name for `--fields` and a function from the row to
//! a [`Value`]. Never here: what a column means.

use std::io::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::failure::{Failure, Outcome};
use crate::value::Value;

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
        default_columns: &[&str],
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
        let chosen = self.chosen(columns, default_columns, selection)?;
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
                    .map(|row| chosen.iter().map(|c| (c.get)(row).human()).collect())
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

    /// The columns that are to be shown.
    pub(crate) fn chosen<'c, T>(
        self,
        columns: &'c [Column<T>],
        default_columns: &[&str],
        selection: &Selection,
    ) -> Result<Vec<&'c Column<T>>, Failure> {
        let all = matches!(self.format, Format::Json | Format::Yaml);
        if !selection.fields.is_empty() {
            selection.fields.iter().map(|f| find(columns, f)).collect()
        } else if all {
            Ok(columns.iter().collect())
        } else {
            default_columns.iter().map(|f| find(columns, f)).collect()
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
                    let cells = entries.iter().map(|(k, v)| vec![k.clone(), v.human()]).collect();
                    table(None, cells, &[false, false])
                }
                other => other.human() + "\n",
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
pub(crate) fn one_line(text: &str) -> String {
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
}
