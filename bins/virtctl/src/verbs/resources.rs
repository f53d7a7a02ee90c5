//! `resources`: the 21 rows of accounting, and what the node really keeps.
//!
//! Never here: counting.

use std::fmt::Write as _;

use ves_types::UbcRow;

use super::Context;
use crate::cli::ResourcesArgs;
use crate::failure::Outcome;
use crate::output::Column;
use crate::usage::{self, Whys};
use crate::value::Value;

type Row = (u32, UbcRow);

impl Context {
    pub(super) async fn resources(self, args: ResourcesArgs) -> Outcome {
        let ResourcesArgs { ct, all: _, raw, list } = args;
        // Why something is not kept is no part of the raw form.
        let whys = if raw {
            Whys::new()
        } else {
            usage::whys(&super::node::this_node(&self.coordinator).await?.capabilities)
        };
        let containers = usage::of(&self.coordinator, ct.as_ref(), &whys).await?;
        let rows: Vec<Row> = containers
            .into_iter()
            .flat_map(|c| c.rows.into_iter().map(move |r| (c.ct, r)))
            .collect();
        if raw {
            let text = if ct.is_some() { raw_one(&rows) } else { raw_all(&rows) };
            return self.output.print(&text);
        }
        let all =
            ["ctid", "resource", "held", "maxheld", "barrier", "limit", "failcnt", "enforcement"];
        let default_columns = if ct.is_none() { &all[..] } else { &all[1..] };
        self.output.list(&columns(), default_columns, &list.selection(self.fields), &rows)
    }
}

fn columns() -> Vec<Column<Row>> {
    let columns = vec![
        Column::right("ctid", |(id, _): &Row| Value::Num(u64::from(*id))),
        Column::new("resource", |(_, r): &Row| Value::text(r.resource.name())),
        Column::right("held", |(_, r): &Row| Value::Num(r.held)),
        Column::right("maxheld", |(_, r): &Row| Value::Num(r.maxheld)),
        Column::right("barrier", |(_, r): &Row| Value::limit(r.value.barrier)),
        Column::right("limit", |(_, r): &Row| Value::limit(r.value.limit)),
        Column::right("failcnt", |(_, r): &Row| Value::Num(r.failcnt)),
        Column::new("enforcement", |(_, r): &Row| Value::text(r.enforcement.to_string())),
    ];
    // Headed as in /proc/user_beancounters.
    columns
        .into_iter()
        .map(|column| {
            let name = column.name.clone();
            column.headed(&name)
        })
        .collect()
}

/// One line as OpenVZ's kernel printed it.
fn raw_line(uid: &str, row: &UbcRow) -> String {
    format!(
        "{uid:>10}  {:<12} {:>20} {:>20} {:>20} {:>20} {:>20}\n",
        row.resource.name(),
        row.held,
        row.maxheld,
        row.value.barrier.to_wire(),
        row.value.limit.to_wire(),
        row.failcnt,
    )
}

/// `/proc/bc/ID/resources`: no header, no id.
fn raw_one(rows: &[Row]) -> String {
    rows.iter().map(|(_, row)| raw_line("", row)).collect()
}

/// `/proc/bc/resources`: a header, and the id on the first row of each.
fn raw_all(rows: &[Row]) -> String {
    let mut text = String::new();
    let [a, b, c, d, e] = ["held", "maxheld", "barrier", "limit", "failcnt"];
    writeln!(text, "{:>10}  {:<12} {a:>20} {b:>20} {c:>20} {d:>20} {e:>20}", "uid", "resource")
        .ok(); // a string takes everything
    let mut last = None;
    for (id, row) in rows {
        let uid = if last == Some(id) { String::new() } else { format!("{id}:") };
        text.push_str(&raw_line(&uid, row));
        last = Some(id);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ves_types::{Enforcement, Limit, UbcResource, UbcValue};

    fn row(resource: UbcResource, held: u64, limit: Limit) -> UbcRow {
        UbcRow {
            resource,
            held,
            maxheld: held + 1,
            value: UbcValue { barrier: Limit::Max(0), limit },
            failcnt: 7,
            enforcement: Enforcement::Hard,
        }
    }

    #[test]
    fn raw_is_what_the_kernel_printed() {
        let rows = [
            (101, row(UbcResource::Kmemsize, 1_234_567, Limit::Unlimited)),
            (101, row(UbcResource::Numothersock, 3, Limit::Max(360))),
        ];
        let expected = [
            "            kmemsize                  1234567              1234568                    0  9223372036854775807                    7",
            "            numothersock                    3                    4                    0                  360                    7",
        ];
        assert_eq!(raw_one(&rows).lines().collect::<Vec<_>>(), expected);
        let all = raw_all(&rows);
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(
            lines[0],
            "       uid  resource                     held              maxheld              barrier                limit              failcnt"
        );
        assert!(lines[1].starts_with("      101:  kmemsize     "), "{}", lines[1]);
        assert_eq!(lines[2], expected[1]);
    }
}
