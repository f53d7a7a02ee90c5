//! What running containers take, as the vocabulary has it.
//!
//! A container's rows say how far each parameter is kept; why not further is said once, by its node.
//!
//! Never here: how it is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use ves_proto::api::{self, Usage};
use ves_proto::public::{parse_bounds, parse_duration, parse_resource};
use ves_proto::{Fault, Reason};
use ves_types::{Enforcement, UbcResource, UbcRow};

use crate::connect::Coordinator;
use crate::ct::Ct;
use crate::names;
use crate::pages;

/// Containers that run, as vzlist shows them without -a.
pub(crate) const RUNNING: &str =
    "status.state=RUNNING OR status.state=STOPPING OR status.state=PAUSED";

/// Why a node does not keep parameters further.
pub(crate) type Whys = BTreeMap<UbcResource, String>;

/// What one container takes.
#[derive(Debug)]
pub(crate) struct ContainerUsage {
    /// Its id.
    pub(crate) ct: u32,
    /// All rows of UBC.
    pub(crate) rows: Vec<UbcRow>,
    /// Processor time used.
    pub(crate) cpu_time: Duration,
}

/// The usage of one container, or of all that run, by id.
pub(crate) async fn of(
    coordinator: &Coordinator,
    ct: Option<&Ct>,
    whys: &Whys,
) -> Result<Vec<ContainerUsage>, Fault> {
    let usage = match ct {
        Some(ct) => {
            let get = || {
                let mut client = coordinator.usage();
                let request = api::GetUsageRequest { container: names::container(ct) };
                async move { client.get_usage(request).await }
            };
            let usage = coordinator.call(get).await?;
            if usage.ubc.is_empty() {
                let message = format!("container {ct} is not running; start it first");
                return Err(Fault::new(Reason::NotRunning, message).fact("ct", ct));
            }
            vec![usage]
        }
        None => {
            let list = |page_token| {
                let mut client = coordinator.usage();
                let filter = RUNNING.to_owned();
                let request = api::ListUsageRequest {
                    page_token,
                    filter,
                    ..api::ListUsageRequest::default()
                };
                async move { client.list_usage(request).await }
            };
            pages::all(coordinator, list).await?
        }
    };
    usage.iter().map(|usage| parse(usage, whys)).collect()
}

/// What a node says of parameters that it does not keep whole.
pub(crate) fn whys(capabilities: &[api::Capability]) -> Whys {
    let one = |c: &api::Capability| Some((parse_resource(c.resource())?, c.why.clone()));
    capabilities.iter().filter_map(one).collect()
}

/// How far something is kept; none where the node does not say.
pub(crate) fn enforcement(kept: api::Enforcement, why: &str) -> Option<Enforcement> {
    match kept {
        api::Enforcement::Unspecified => None,
        api::Enforcement::Hard => Some(Enforcement::Hard),
        api::Enforcement::Bounded => Some(Enforcement::Bounded),
        api::Enforcement::Accounted => Some(Enforcement::Accounted),
        api::Enforcement::Unavailable => Some(Enforcement::Unavailable(why.to_owned())),
    }
}

fn parse(usage: &Usage, whys: &Whys) -> Result<ContainerUsage, Fault> {
    let ct = names::ct_id(&usage.container).ok_or_else(|| {
        let message = format!("the coordinator told of the usage of {:?}", usage.container);
        Fault::new(Reason::Bug, message)
    })?;
    let cpu_time = usage.cpu_time.unwrap_or_default();
    Ok(ContainerUsage {
        ct,
        rows: usage.ubc.iter().filter_map(|row| parse_row(row, whys)).collect(),
        cpu_time: parse_duration("cpu_time", &cpu_time)?,
    })
}

/// A row; none of a parameter that this version does not know. What cannot be counted is 0, as
/// /proc/bc had it.
fn parse_row(row: &api::UbcRow, whys: &Whys) -> Option<UbcRow> {
    let api::UbcRow { resource: _, held, max_held, bounds, fail_count, enforcement: _ } = row;
    let resource = parse_resource(row.resource())?;
    let why = whys.get(&resource).map(String::as_str).unwrap_or_default();
    Some(UbcRow {
        resource,
        held: held.unwrap_or(0),
        maxheld: max_held.unwrap_or(0),
        value: parse_bounds(bounds.unwrap_or_default()),
        failcnt: *fail_count,
        enforcement: enforcement(row.enforcement(), why)
            .unwrap_or_else(|| Enforcement::Unavailable("the node does not say".to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use ves_types::{Limit, UbcValue};

    use super::*;

    #[test]
    fn what_is_not_counted_is_0_and_says_why() {
        let row = api::UbcRow {
            resource: api::UbcResource::Numflock.into(),
            bounds: Some(api::Bounds { barrier: Some(3), limit: None }),
            enforcement: api::Enforcement::Unavailable.into(),
            ..api::UbcRow::default()
        };
        let whys = Whys::from([(UbcResource::Numflock, "nobody counts".to_owned())]);
        let read = parse_row(&row, &whys).expect("known");
        assert_eq!((read.held, read.maxheld), (0, 0));
        assert_eq!(read.value, UbcValue { barrier: Limit::Max(3), limit: Limit::Unlimited });
        assert_eq!(read.enforcement.to_string(), "unavailable (nobody counts)");
        assert_eq!(parse_row(&api::UbcRow::default(), &whys), None);
        let usage = Usage { container: "nodes/n1".into(), ..Usage::default() };
        assert_eq!(parse(&usage, &whys).expect_err("no container").reason, Reason::Bug);
    }
}
