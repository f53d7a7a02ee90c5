//! What `deploy/grafana` asks for is what daemons export: every metric, label and value in queries of dashboards
//! and alerts, as Prometheus calls them, and every label that a legend shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use ves_kit::prometheus::samples;
use ves_sim::Mishap;
use ves_sim::sim::Command;
use ves_types::{CtId, UbcResource};

use crate::metrics::Told;

mod promql;

use promql::Query;

type Labels = BTreeSet<String>;

/// What is exported: of each name of series, what each label was.
struct Exported(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

/// Lets everything happen that is told of.
fn exported() -> Exported {
    let told = Told::new();
    let sim = &told.sim;
    sim.run(&Command::create(101, |spec| spec.name = "web".to_owned())).expect("created");
    sim.run(&Command::start("101")).expect("started");
    let ct = CtId::try_from(101).expect("valid");
    let counts = UbcResource::ALL.map(|r| {
        let count = ves_resources::rows::Count { held: 1, maxheld: 1, failcnt: 1 };
        (r, count)
    });
    let usage = ves_resources::rows::Usage {
        counts: counts.into(),
        oom_kills: Some(1),
        ..ves_resources::rows::Usage::default()
    };
    sim.kernel().groups.set_usage(ct, usage);
    let mut links = sim.kernel().links.state();
    let traffic = links.traffic.entry(ct).or_default();
    (traffic.rx_dropped, traffic.tx_dropped) = (1, 1);
    drop(links);
    sim.kernel().volumes.damage(ct, false);
    // A step that fails, of an operation that fails by it.
    sim.script().at_step(0, Mishap::FailBefore(ves_proto::Reason::HostFailed));
    sim.run(&Command::create(102, |_| {})).expect_err("as scripted");
    let mut all = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
    for sample in told.export().0.iter().flat_map(samples) {
        let series = all.entry(sample.name).or_default();
        for (label, value) in sample.labels {
            series.entry(label).or_default().insert(value);
        }
    }
    Exported(all)
}

impl Exported {
    /// The labels of what a query answers, where all that it names is exported.
    fn check(&self, query: &Query) -> Result<Labels, String> {
        match query {
            Query::Literal => Ok(Labels::new()),
            Query::Selector(name, matchers) => self.selected(name, matchers),
            Query::Call(function, of) => {
                let mut labels = self.check_all(of)?;
                if function == "histogram_quantile" && !labels.remove("le") {
                    return Err("a quantile of what is no histogram".to_owned());
                }
                Ok(labels)
            }
            Query::Aggregation(how, by, of) => {
                let inner = self.check_all(of)?;
                match by {
                    Some((true, by)) => known(&inner, by),
                    Some((false, without)) => {
                        let gone = known(&inner, without)?;
                        Ok(inner.difference(&gone).cloned().collect())
                    }
                    None if how == "topk" || how == "bottomk" => Ok(inner),
                    None => Ok(Labels::new()),
                }
            }
            Query::Both(left, on, right) => {
                let (left, right) = (self.check(left)?, self.check(right)?);
                if let Some(on) = on {
                    known(&right, on)?;
                    return known(&left, on);
                }
                // Who matches by all labels answers nothing where the sides have others.
                match (left.is_empty(), right.is_empty()) {
                    (false, false) if left != right => Err(format!("{left:?} is no {right:?}")),
                    (true, _) => Ok(right),
                    (false, _) => Ok(left),
                }
            }
        }
    }

    fn check_all(&self, all: &[Query]) -> Result<Labels, String> {
        let mut labels = Labels::new();
        for query in all {
            labels.extend(self.check(query)?);
        }
        Ok(labels)
    }

    fn selected(
        &self,
        name: &str,
        matchers: &[(String, String, String)],
    ) -> Result<Labels, String> {
        let series = self.0.get(name).ok_or_else(|| format!("{name} is not exported"))?;
        for (label, operator, value) in matchers {
            let Some(values) = series.get(label) else {
                return Err(format!("{name} has no label {label}"));
            };
            // What a variable of the dashboard stands for is no value of ours.
            let ours = operator == "=" && !value.contains('$');
            if ours && !values.contains(value) {
                return Err(format!("{label} of {name} is never {value}, but {values:?}"));
            }
        }
        Ok(series.keys().cloned().collect())
    }
}

/// These labels, where there are such.
fn known(all: &Labels, wanted: &[String]) -> Result<Labels, String> {
    let unknown = wanted.iter().find(|label| !all.contains(*label));
    match unknown {
        Some(label) => Err(format!("there is no label {label}, but {all:?}")),
        None => Ok(wanted.iter().cloned().collect()),
    }
}

/// A query somewhere, and the labels that are shown of what it answers.
struct Asked {
    from: String,
    text: String,
    shows: Labels,
}

impl Asked {
    fn check(&self, exported: &Exported) -> Result<(), String> {
        let Self { from, text, shows } = self;
        let text = text.replace("$__rate_interval", "5m");
        let wrong = |why: String| format!("{from}: {text}: {why}");
        let labels =
            promql::parse(&text).and_then(|query| exported.check(&query)).map_err(wrong)?;
        let unknown = shows.iter().find(|label| !labels.contains(*label));
        unknown.map_or(Ok(()), |label| Err(wrong(format!("it answers no label {label}"))))
    }
}

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana")
}

/// What stands between `begin` and `end`, each time.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = String> + 'a {
    let parts = text.split(begin).skip(1);
    parts.filter_map(move |part| Some(part.split_once(end)?.0.trim().to_owned()))
}

fn of_dashboard(file: &Path) -> Vec<Asked> {
    let text = std::fs::read_to_string(file).expect("it is read");
    let board: Value = serde_json::from_str(&text).expect("it is JSON");
    let mut queries = Vec::new();
    for panel in board["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let of = |key: &str| target[key].as_str().expect("a text").to_owned();
            let renamed = &panel["transformations"][0]["options"]["renameByName"];
            let columns = renamed.as_object().into_iter().flat_map(serde_json::Map::keys);
            let columns = columns.filter(|column| *column != "Value").cloned();
            queries.push(Asked {
                from: format!("{}, {}", board["title"], panel["title"]),
                text: of("expr"),
                shows: between(&of("legendFormat"), "{{", "}}").chain(columns).collect(),
            });
        }
    }
    for variable in board["templating"]["list"].as_array().expect("variables") {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
        let (text, label) = inner.and_then(|q| q.rsplit_once(',')).expect("of a label");
        let shows = Labels::from([label.trim().to_owned()]);
        queries.push(Asked { from: variable["name"].to_string(), text: text.to_owned(), shows });
    }
    queries
}

fn of_alerts() -> Vec<Asked> {
    let text = std::fs::read_to_string(grafana().join("alerts.yml")).expect("it is read");
    let rules: Value = serde_yaml_ng::from_str(&text).expect("it is YAML");
    let groups = rules["groups"].as_array().expect("groups").iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
    let query = |rule: &Value| Asked {
        from: rule["alert"].to_string(),
        text: rule["expr"].as_str().expect("a query").to_owned(),
        shows: between(&rule["annotations"].to_string(), "{{ $labels.", " }}").collect(),
    };
    rules.map(query).collect()
}

#[test]
fn each_query_asks_for_what_is_exported() {
    let exported = exported();
    let boards = std::fs::read_dir(grafana().join("dashboards")).expect("it is listed");
    let boards: Vec<_> = boards.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(boards.len(), 4, "{boards:?}");
    let mut queries = of_alerts();
    queries.extend(boards.iter().flat_map(|board| of_dashboard(board)));
    assert!(queries.len() > 80, "{}", queries.len());
    let wrong: Vec<_> = queries.iter().filter_map(|q| q.check(&exported).err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    let named = |text: &str| {
        let shows = Labels::from(["host_name".to_owned()]);
        Asked { from: String::new(), text: text.to_owned(), shows }.check(&exported)
    };
    assert_eq!(named("sum by (host_name) (ves_pool_size_bytes)"), Ok(()));
    for bad in [
        "ves_pool_size",
        "sum(ves_pool_size_bytes)",
        "sum by (host) (ves_pool_size_bytes)",
        r#"ves_node_containers{ves_container_state="up"}"#,
        r#"ves_node_containers{state="running"}"#,
        "ves_pool_size_bytes / ves_node_containers",
        "histogram_quantile(0.5, sum by (host_name) (rate(ves_step_duration_seconds_bucket[5m])))",
        "sum by (host_name) (",
    ] {
        assert!(named(bad).is_err(), "{bad}");
    }
}
