//! Verbs that show containers and nodes, in every form of output.
//!
//! Never here: a change.

use ves_proto::api::{Template, container_status::State};
use ves_proto::{Fault, Reason};

use crate::fake::{Fake, Pace};
use crate::program::{json, run};

#[test]
fn status_is_vzctls_line() {
    let fake = Fake::started();
    for (ct, line) in [
        ("101", "CTID 101 exist mounted running\n"),
        ("web", "CTID 101 exist mounted running\n"),
        ("102", "CTID 102 exist unmounted down\n"),
        ("db", "CTID 103 exist mounted down\n"),
        ("999", "CTID 999 deleted unmounted down\n"),
    ] {
        assert_eq!(run(&fake, &format!("status {ct}")), (0, line.to_owned(), String::new()));
    }
    assert_eq!(run(&fake, "status nobody").0, 14);
    let status = json(&fake, "status web");
    assert_eq!(status["ctid"], 101);
    assert_eq!(status["running"], true);
    assert_eq!(run(&fake, "status web -o yaml").1.lines().next(), Some("ctid: 101"));
}

#[test]
fn lists_in_every_form() {
    let fake = Fake::started();
    fake.state().page = 1;
    assert_eq!(
        run(&fake, "list").1,
        "CTID  NPROC  STATUS   IP_ADDR                  HOSTNAME\n \
         101      7  running  192.0.2.101,2001:db8::65  host101.example\n"
            .replace("IP_ADDR                  ", "IP_ADDR                   ")
    );
    let all = run(&fake, "list -a -H --fields ctid,name,status,ram,diskspace").1;
    assert_eq!(
        all,
        "101  web  running  256 MiB  10 GiB\n102  -    stopped  256 MiB  10 GiB\n\
         103  db   mounted  256 MiB  10 GiB\n"
    );
    assert_eq!(run(&fake, "list -a -o ctid,name -H").1, "101  web\n102  -\n103  db\n");
    assert_eq!(run(&fake, "list -a -1").1, "101\n102\n103\n");
    assert_eq!(run(&fake, "list -S -1").1, "102\n103\n");
    assert_eq!(run(&fake, "list -a -1 --sort -ctid").1, "103\n102\n101\n");
    assert_eq!(run(&fake, "list -1 db").1, "103\n");
    assert_eq!(run(&fake, "list nobody").0, 14);
    // One that is not there hides none that is.
    let (status, out, said) = run(&fake, "list 101 999 db nobody -1");
    assert_eq!((status, out.as_str()), (14, "101\n103\n"));
    assert!(said.contains("there is no container 999, nobody"), "{said}");
    assert_eq!(run(&fake, "list -n").1.lines().next().map(|l| l.ends_with("NAME")), Some(true));
    assert_eq!(
        run(&fake, "list -a -o csv --fields ctid,ip,onboot,created").1.lines().take(2).last(),
        Some("101,192.0.2.101 2001:db8::65,no,2023-11-14T22:13:20Z")
    );
    let rows = json(&fake, "list -a");
    assert_eq!(rows.as_array().map(Vec::len), Some(3));
    assert_eq!(rows[0]["ip"][1], "2001:db8::65");
    assert_eq!(rows[0]["init_pid"], 4242);
    assert_eq!(rows[0]["cpulimit"], 150);
    assert_eq!((&rows[0]["cpumask"], &rows[0]["iolimit"]), (&"0-1".into(), &(1 << 20).into()));
    assert_eq!(rows[0].get("notes"), None, "only where they were asked for");
    let notes = "--iolimit: not what is written late";
    assert_eq!(
        run(&fake, "list -a -H --fields notes").1.lines().next().map(str::trim),
        Some(notes)
    );
    assert_eq!(rows[1]["status"], "stopped");
    assert_eq!(run(&fake, "list -j --fields ctid").1, run(&fake, "list -o json --fields ctid").1);
    assert!(run(&fake, "list -o yaml").1.starts_with("- ctid: 101\n"));
    assert_eq!(
        run(&fake, "list -H --fields ctid,numfile,numfile.f,numproc.m").1,
        "101  28  18  24\n"
    );
    let (status, _, stderr) = run(&fake, "list --fields ctid,nonsense");
    assert_eq!(status, 2);
    assert!(stderr.contains("\"nonsense\"") && stderr.contains("ctid, numproc"), "{stderr}");
    assert_eq!(run(&fake, "list -o nonsense").0, 2);
    assert_eq!(run(&fake, "status 101 -o csv").0, 2);
    fake.state().containers.clear();
    assert_eq!(run(&fake, "list -H").1, "");
    assert_eq!(run(&fake, "list -o json").1, "[]\n");
}

#[test]
fn lists_can_be_filtered_and_show_labels() {
    let fake = Fake::started();
    let filters = |line: &str| {
        fake.calls();
        run(&fake, line);
        let call = fake.calls().remove(0);
        call.split("filter: ")
            .nth(1)
            .and_then(|rest| rest.split(", order_by").next().map(str::to_owned))
    };
    let of = |filter: &str| Some(format!("{filter:?}"));
    let running = "status.state=RUNNING OR status.state=STOPPING OR status.state=PAUSED";
    assert_eq!(filters("list"), of(running));
    assert_eq!(filters("list -a"), of(""));
    assert_eq!(filters("list 101 102"), of(""));
    assert_eq!(filters("list -S"), of(&format!("NOT ({running})")));
    assert_eq!(filters("list --filter labels.customer=101"), of("labels.customer=101"));
    assert_eq!(filters("list -S --filter a=1"), of(&format!("(a=1) AND NOT ({running})")));
    let table = run(&fake, "list -a --fields ctid --labels customer,nothing").1;
    assert_eq!(
        table,
        "CTID  CUSTOMER  NOTHING\n 101  101       -\n 102  102       -\n 103  103       -\n"
    );
    let sorted = run(&fake, "list -a -H --fields labels.customer --sort -labels.customer").1;
    assert_eq!(sorted, "103\n102\n101\n");
    let heads = run(&fake, "list --labels customer").1;
    assert!(
        heads.lines().next().is_some_and(|l| l.ends_with("HOSTNAME         CUSTOMER")),
        "{heads}"
    );
    assert_eq!(json(&fake, "list")[0]["labels"]["customer"], "101");
    let mut fault =
        Fault::new(Reason::BadValue, "a filter has no field nosuch").fact("field", "filter");
    fault.retry_after = None;
    fake.state().faults.push_back(fault);
    assert_eq!(run(&fake, "list --filter nosuch=1").0, 2);
}

#[test]
fn resources_have_21_rows() {
    let fake = Fake::started();
    let table = run(&fake, "resources 101").1;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 22);
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["resource", "held", "maxheld", "barrier", "limit", "failcnt", "enforcement"]
    );
    assert!(
        lines[1].ends_with("unlimited        0  unavailable (not counted yet)"),
        "{}",
        lines[1]
    );
    assert!(lines[5].starts_with("numproc") && lines[5].ends_with("hard"), "{}", lines[5]);
    let raw = run(&fake, "resources 101 -r").1;
    let lines: Vec<&str> = raw.lines().collect();
    assert_eq!(lines.len(), 21);
    assert!(lines.iter().all(|l| l.len() == 10 + 2 + 12 + 5 * 21), "{raw}");
    assert!(lines[20].starts_with("            swappages   "), "{}", lines[20]);
    assert_eq!(lines[0].split_whitespace().nth(4), Some("9223372036854775807"));
    let all = run(&fake, "resources --all").1;
    assert!(all.starts_with("ctid  resource"), "{all}");
    let raw = run(&fake, "resources --all -r").1;
    assert_eq!(raw.lines().count(), 22);
    assert!(raw.lines().nth(1).is_some_and(|l| l.starts_with("      101:  kmemsize ")), "{raw}");
    let rows = json(&fake, "resources web");
    assert_eq!(rows[4]["enforcement"], "hard");
    assert_eq!(rows[4]["limit"], "unlimited");
    assert_eq!((&rows[0]["held"], &rows[4]["held"]), (&0.into(), &14.into()), "{rows}");
    assert_eq!(run(&fake, "resources 999").0, 14);
}

#[test]
fn what_a_container_is_is_told_in_the_words_there_always_were() {
    let fake = Fake::started();
    let problem = Fault::new(Reason::WillNotStop, "it does not stop").to_message();
    if let Some(status) = fake.state().containers.get_mut(&101).and_then(|c| c.status.as_mut()) {
        status.state = State::Stopping.into();
        status.problem = Some(problem);
        status.operation = "operations/op-7".to_owned();
    }
    let rows = json(&fake, "list");
    for (field, value) in [
        ("status", "running".into()),
        ("stopping", true.into()),
        ("problem", "it does not stop".into()),
        ("operation", "op-7".into()),
        ("node", "n1".into()),
        ("ostemplate", "debian-13".into()),
        ("devices", serde_json::json!(["net/tun:rw"])),
        ("capability", serde_json::json!(["NET_RAW:off"])),
        ("started", "2023-11-14T22:15:00Z".into()),
        ("restart", "no".into()),
    ] {
        assert_eq!(rows[0][field], value, "{field}: {rows}");
    }
    let (status, line, said) = run(&fake, "status 101");
    assert_eq!((status, line.as_str()), (0, "CTID 101 exist mounted running\n"));
    assert_eq!(
        said,
        "container 101: it does not stop\ncontainer 101: it is going down by itself\n"
    );
    let events = run(&fake, "watch -o json").1;
    let first = events.lines().next().expect("one of three");
    let event: serde_json::Value = serde_json::from_str(first).expect("an object");
    assert_eq!((&event["stopping"], &event["revision"]), (&true.into(), &5.into()), "{event}");
}

#[test]
fn node_top_events_operations_templates() {
    let fake = Fake::started();
    assert!(run(&fake, "node list -H").1.starts_with("n1  ready"), "node list");
    let pool = run(&fake, "node pool").1;
    for line in ["promised    20 GiB\n", "allocated   9 GiB\n", "backed      24 GiB\n"] {
        assert!(pool.contains(line), "{pool}");
    }
    assert!(pool.contains("only 1 MiB are free under the pool"), "{pool}");
    assert_eq!(json(&fake, "node pool")["promisable"], 70u64 << 30);
    let capacity = run(&fake, "node capacity").1;
    assert!(capacity.contains("numproc       hard\n"), "what scripts cut out: {capacity}");
    let said: Vec<String> =
        capacity.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "promised 20 GiB",
        "ram_limit 63 GiB",
        "pids_limit 28672",
        "guard owned",
        "rooms neighbours-v4=7 of 1024, should be 65536",
        "unknown 820=volume, link",
        "numproc hard",
    ] {
        assert!(said.iter().any(|l| l == line), "{line}: {capacity}");
    }
    assert_eq!(json(&fake, "node capacity")["enforcement"]["numfile"], "accounted");
    let top = run(&fake, "top --once");
    assert_eq!(top.0, 0, "{}", top.2);
    assert!(
        top.1.lines().nth(1).is_some_and(|l| l.starts_with(" 101  web   running")),
        "{}",
        top.1
    );
    assert_eq!(run(&fake, "top -b --iterations 2 -d 1 -H").1.lines().count(), 2);
    let events = run(&fake, "watch").1;
    assert_eq!(events.lines().count(), 4, "{events}");
    assert_eq!(run(&fake, "watch -H").1.lines().count(), 3, "not what comes afterwards");
    assert!(events.contains("5  present         101  running"), "{events}");
    let events = run(&fake, "watch -o json").1;
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        assert_eq!(event["event"], "present");
    }
    run(&fake, "start 101");
    fake.state().pace = Pace::Fails(Reason::PoolFull);
    assert_eq!(run(&fake, "start 102").0, 46);
    let list = run(&fake, "operation list -H --fields id,kind,ctid,state,took").1;
    assert_eq!(list, "op-2  start  102  failed     1.2 s\nop-1  start  101  succeeded  1.2 s\n");
    assert_eq!(json(&fake, "operation show op-2")["fault"]["reason"], "POOL_FULL");
    assert_eq!(run(&fake, "operation show nope").0, 208);
    assert_eq!(run(&fake, "operation wait op-1").0, 0);
    assert_eq!(
        run(&fake, "operation cancel op-1").1,
        "operation op-1 was asked to stop; it is cancelled now\n"
    );
    assert_eq!(run(&fake, "operation wait op-1").0, 202);
    fake.state().pace = Pace::Never;
    fake.state().faults.push_back(Fault::new(Reason::Busy, "another works on it"));
    assert_eq!(run(&fake, "start 101").0, 9, "and not repeated");
    fake.state().templates = vec![Template {
        name: "templates/debian-13".into(),
        os: "Debian GNU/Linux 13 (trixie)".into(),
        init: ves_proto::api::InitSystem::Systemd.into(),
        content_bytes: 300 << 20,
        create_time: Some(ves_proto::public::timestamp(1_700_000_000_999)),
        ..Default::default()
    }];
    assert_eq!(
        run(&fake, "template list -H --fields name,os,init,content").1,
        "debian-13  Debian GNU/Linux 13 (trixie)  systemd  300 MiB\n"
    );
    assert_eq!(json(&fake, "template list")[0]["created"], "2023-11-14T22:13:20Z");
}

#[test]
fn snapshots_in_every_form() {
    let fake = Fake::started();
    let (first, second) =
        ("019ab4a0-0000-7000-8000-000000000001", "019ab4a0-0000-7000-8000-000000000002");
    let (status, table, _) = run(&fake, "snapshot-list 101");
    assert_eq!(status, 0);
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "NAME", "CREATED", "SIZE", "CURRENT", "PARENT"]);
    assert_eq!((rows[1][0], rows[1][1], rows[1].last()), (first, "before", Some(&"-")), "{table}");
    assert_eq!((rows[2][0], rows[2][1], rows[2].last()), (second, "-", Some(&first)), "{table}");
    let (_, csv, _) = run(&fake, "snapshot-list 101 -o csv -H --fields id,size,current");
    assert_eq!(csv, format!("{first},4096,no\n{second},,yes\n"));
    let (_, one, _) = run(&fake, &format!("snapshot-list web -H -o id --id {{{second}}}"));
    assert_eq!(one, format!("{second}\n"));
    let all = json(&fake, "snapshot-list 101");
    assert_eq!((&all[0]["reserved"], &all[1]["size"]), (&8192.into(), &serde_json::Value::Null));
    assert_eq!(json(&fake, "snapshot 101")["snapshot"], first);
    let (status, _, stderr) =
        run(&fake, "snapshot-list 101 --id 019ab4a0-0000-7000-8000-000000000009");
    assert!(status == 209 && stderr.contains("has no snapshot"), "{status} {stderr}");
    assert!(run(&fake, "snapshot-list 101 -L").1.contains("reserved\n"));
    fake.calls();
    let (status, steps, _) = run(&fake, "snapshot 101 --name x --dry-run");
    assert_eq!((status, steps.as_str()), (0, "storage: snapshot step one\n  snapshot step two\n"));
    let calls = fake.calls();
    assert!(
        calls[0].contains("title: \"x\"") && calls[0].contains("validate_only: true"),
        "{calls:?}"
    );
}
