//! Words of every list: which columns, in which order, how sorted.
//!
//! Never here: which columns there are.

use clap::Args;

use crate::output::Selection;

/// How to show a list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Columns to show, in this order
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    /// Leave the header out
    #[arg(short = 'H', long)]
    pub(crate) no_header: bool,
    /// Sort by this field; with - in front, backwards
    #[arg(short, long, value_name = "[-]FIELD", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
}

impl ListArgs {
    pub(crate) fn selection(self, from_output: Vec<String>) -> Selection {
        let Self { fields, no_header, sort } = self;
        let sort = sort.map(|s| match s.strip_prefix('-') {
            Some(name) => (name.to_owned(), true),
            None => (s, false),
        });
        Selection { fields: if fields.is_empty() { from_output } else { fields }, no_header, sort }
    }
}
