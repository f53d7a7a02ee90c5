//! The real binary against a fake coordinator: what is sent, what is printed, what it ends with.

mod fake;
mod terminal;

use assert_cmd::Command;
use fake::{Fake, Pace};
use ves_proto::{Fault, Reason};

/// virtctl speaking to `fake`.
fn virtctl(fake: &Fake) -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("virtctl");
    command.env("VES_SOCKET", fake.socket()).env("TZ", "UTC").env_remove("TERM");
    command.env("COLUMNS", "100").timeout(std::time::Duration::from_secs(30));
    command
}

/// Exit status, stdout, stderr.
fn run(fake: &Fake, line: &str) -> (i32, String, String) {
    out(virtctl(fake).args(line.split_whitespace()))
}

fn out(command: &mut Command) -> (i32, String, String) {
    let out = command.output().expect("virtctl runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    (out.status.code().expect("it exits by itself"), text(out.stdout), text(out.stderr))
}

fn json(fake: &Fake, line: &str) -> serde_json::Value {
    let (status, stdout, stderr) = run(fake, &format!("{line} -o json"));
    assert_eq!(status, 0, "{line}: {stderr}");
    serde_json::from_str(&stdout).expect(&stdout)
}

#[test]
fn changes_say_what_was_done_and_how_long_it_took() {
    let fake = Fake::started();
    for (line, said) in [
        ("create 105 --ostemplate debian-13", "container 105 created in 1.2 s\n"),
        ("create shop --ostemplate debian-13", "container 101 created in 1.2 s\n"),
        ("start 102", "container 102 started in 1.2 s\n"),
        ("start web --wait", "container 101 started and booted in 1.2 s\n"),
        ("stop 101", "container 101 stopped in 1.2 s\n"),
        ("restart 101", "container 101 restarted in 1.2 s\n"),
        ("destroy 102", "container 102 destroyed in 1.2 s\n"),
        ("delete 102", "container 102 destroyed in 1.2 s\n"),
        ("mount 102", "container 102 mounted in 1.2 s\n"),
        ("umount 103", "container 103 unmounted in 1.2 s\n"),
        (
            "snapshot 101 --name n",
            "container 101: snapshot 019ab4a0-0000-7000-8000-000000000001 taken in 1.2 s\n",
        ),
        (
            "snapshot-switch 102 --id {019AB4A0-0000-7000-8000-000000000002}",
            "container 102 switched to snapshot 019ab4a0-0000-7000-8000-000000000002 in 1.2 s\n",
        ),
        (
            "snapshot-delete web --id 019ab4a0-0000-7000-8000-000000000002",
            "container 101: snapshot 019ab4a0-0000-7000-8000-000000000002 deleted in 1.2 s\n",
        ),
        ("set 101 --onboot yes --save", "container 101 changed and saved in 1.2 s\n"),
        ("set 101 --cpus 2", "container 101 changed until it stops in 1.2 s\n"),
        ("template build deb --suite trixie", "template deb built in 1.2 s\n"),
    ] {
        assert_eq!(run(&fake, line), (0, said.to_owned(), String::new()), "{line}");
        let (status, stdout, stderr) = run(&fake, &format!("--quiet {line}"));
        assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "", ""), "{line}");
        assert_eq!(json(&fake, line)["state"], "succeeded", "{line}");
    }
}

#[test]
fn what_is_asked_for_is_what_was_said() {
    let fake = Fake::started();
    let call = |line: &str| {
        fake.calls();
        assert_eq!(run(&fake, line).0, 0, "{line}");
        fake.calls().remove(0)
    };
    let create = call(
        "create 101 --ostemplate debian-13 --name web --hostname w.example --ipadd 10.0.0.1/32 \
         --ipadd 2001:db8::1,10.0.0.2 --nameserver 10.0.0.53 --diskspace 2G --diskinodes 1000 \
         --ram 512M --swap 1G --cpulimit 150 --cpuunits 500 --cpus 2 --numproc 100:200 --onboot yes \
         --bootorder 5 --description d --searchdomain example.org --disabled no",
    );
    for part in [
        "id: 101",
        "name: \"web\"",
        "hostname: \"w.example\"",
        "template: \"debian-13\"",
        "addresses: [\"10.0.0.1\", \"2001:db8::1\", \"10.0.0.2\"]",
        "nameservers: [\"10.0.0.53\"]",
        "search_domains: [\"example.org\"]",
        "disk_bytes: 2147483648",
        "disk_inodes: Some(1000)",
        "\"physpages\": UbcValue { barrier: 0, limit: 131072 }",
        "\"swappages\": UbcValue { barrier: 0, limit: 262144 }",
        "\"numproc\": UbcValue { barrier: 100, limit: 200 }",
        "cpu_millicpus: Some(1500)",
        "cpus: Some(2)",
        "cpu_units: Some(500)",
        "onboot: true",
        "boot_order: Some(5)",
        "disabled: false",
        "dry_run: false",
    ] {
        assert!(create.contains(part), "{part}: {create}");
    }
    let set = call(
        "set web --ipadd 10.0.0.9 --ipdel all --kmemsize 1m:2m --save --setmode restart --cpulimit 0",
    );
    for part in [
        "ct: \"web\"",
        "update_mask: [\"limits.ubc.kmemsize\", \"limits.cpu_millicpus\"]",
        "UbcValue { barrier: 1048576, limit: 2097152 }",
        "cpu_millicpus: None",
        "save: true",
        "set_mode: Restart",
        "add_addresses: [\"10.0.0.9\"]",
        "remove_addresses: [\"all\"]",
    ] {
        assert!(set.contains(part), "{part}: {set}");
    }
    let stop = call("stop 101 --fast --timeout 7 --skip-umount");
    for part in ["fast: true", "grace_ms: 7000", "skip_unmount: true", "unmount_only: false"] {
        assert!(stop.contains(part), "{part}: {stop}");
    }
    let start = call("start 101 --force --wait");
    assert!(start.contains("wait: true, force: true, mount_only: false"), "{start}");
    let sample = call("create 101 --ostemplate t --config vswap-256m --ram 1g");
    for part in ["limit: 262144", "limit: 131072", "disk_bytes: 2147483648"] {
        assert!(sample.contains(part), "{part}: {sample}");
    }
    assert!(!call("set 101 --applyconfig basic").contains("disk_bytes\""));
    let build = call("template build t --suite trixie --init sysvinit --package a,b --package c");
    assert!(build.contains("init: Sysvinit, packages: [\"a\", \"b\", \"c\"]"), "{build}");
}

#[test]
fn dry_run_prints_the_plan() {
    let fake = Fake::started();
    for line in [
        "create 105 --ostemplate t",
        "start 102",
        "stop 101",
        "restart 101",
        "destroy 102",
        "mount 102",
        "umount 103",
        "set 101 --onboot yes",
    ] {
        fake.calls();
        let (status, stdout, stderr) = run(&fake, &format!("{line} --dry-run"));
        assert_eq!((status, stderr.as_str()), (0, ""), "{line}");
        assert!(stdout.contains("step one\n") && stdout.contains("step two\n"), "{line}: {stdout}");
        assert!(fake.calls()[0].contains("dry_run: true"), "{line}");
    }
    assert_eq!(json(&fake, "start 102 --dry-run")["steps"][1], "start step two");
    assert_eq!(
        run(&fake, "template build t --suite trixie --dry-run").1,
        "build template t from trixie\n"
    );
    assert_eq!(
        run(&fake, "template import /etc --name t --dry-run").1,
        "import template t from /etc\n"
    );
    assert_eq!(run(&fake, "template delete t --dry-run").0, 91);
    fake.state().templates =
        vec![ves_proto::storage::Template { name: "t".into(), ..Default::default() }];
    assert_eq!(run(&fake, "template build t --suite trixie --dry-run").0, 206);
    assert_eq!(json(&fake, "template delete t --dry-run")["steps"][0], "delete template t");
    let verbose = run(&fake, "start 102 --verbose");
    assert_eq!(verbose.2, "  start step one\n  start step two\n");
}

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
    assert_eq!(run(&fake, "resources 999").0, 14);
}

#[test]
fn node_top_events_operations_templates() {
    let fake = Fake::started();
    assert!(run(&fake, "node list -H").1.starts_with("n1  ready"), "node list");
    let capacity = run(&fake, "node capacity").1;
    assert!(capacity.contains("promised      20 GiB\n"), "{capacity}");
    assert!(capacity.contains("numproc       hard\n"), "{capacity}");
    assert_eq!(json(&fake, "node capacity")["enforcement"]["numfile"], "accounted");
    let top = run(&fake, "top --once");
    assert_eq!(top.0, 0, "{}", top.2);
    assert!(
        top.1.lines().nth(1).is_some_and(|l| l.starts_with(" 101  web   running")),
        "{}",
        top.1
    );
    assert_eq!(run(&fake, "top -b --iterations 2 -d 1 -H").1.lines().count(), 2);
    let events = run(&fake, "events").1;
    assert_eq!(events.lines().count(), 4, "{events}");
    assert!(events.contains("5  present         101  running"), "{events}");
    let events = run(&fake, "events -o json").1;
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
    fake.state().templates = vec![ves_proto::storage::Template {
        name: "debian-13".into(),
        os: "Debian GNU/Linux 13 (trixie)".into(),
        init: ves_proto::storage::InitSystem::Systemd.into(),
        content_bytes: 300 << 20,
        created_unix: 1_700_000_000,
        ..Default::default()
    }];
    assert_eq!(
        run(&fake, "template list -H --fields name,os,init,content").1,
        "debian-13  Debian GNU/Linux 13 (trixie)  systemd  300 MiB\n"
    );
    assert_eq!(json(&fake, "template list")[0]["created"], "2023-11-14T22:13:20Z");
}

#[test]
fn templates_come_and_go() {
    let fake = Fake::started();
    let archive = fake.dir().join("Deb.tar.zst");
    let bytes: Vec<u8> = (0..700_000u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&archive, &bytes).expect("an archive");
    let (status, stdout, stderr) = out(virtctl(&fake).args(["template", "import"]).arg(&archive));
    assert_eq!((status, stderr.as_str()), (0, "read the archive\n"));
    assert!(stdout.starts_with("template deb imported in "), "{stdout}");
    assert_eq!(fake.state().imported, bytes);
    let tree = fake.dir().join("tree");
    std::fs::create_dir_all(tree.join("etc")).expect("a tree");
    std::fs::write(tree.join("etc/os-release"), "ID=x").expect("a file");
    let (status, _, stderr) =
        out(virtctl(&fake).args(["template", "import", "--name", "t"]).arg(&tree));
    assert_eq!(status, 0, "{stderr}");
    let imported = fake.state().imported.clone();
    assert!(String::from_utf8_lossy(&imported).contains("etc/os-release"));
    let (status, _, stderr) =
        out(virtctl(&fake).args(["template", "import", "--name", "t", "-"]).write_stdin("tar"));
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(fake.state().imported, b"tar");
    assert_eq!(run(&fake, "template import /nonexistent --name x").0, 2);
    assert_eq!(run(&fake, "template import oci:debian --name x").0, 5);
    assert_eq!(run(&fake, &format!("template import {} --sha256 zz", archive.display())).0, 2);
    let to = fake.dir().join("out.tar.zst");
    let export = format!("template export debian-13 {}", to.display());
    let (status, stdout, _) = run(&fake, &export);
    assert_eq!(status, 0);
    assert!(stdout.contains("(6 B)"), "{stdout}");
    assert_eq!(std::fs::read(&to).expect("the export"), b"abcdef");
    assert_eq!(run(&fake, "template export debian-13 -").1, "abcdef");
    assert_eq!(json(&fake, "template delete x")["done"], "template x deleted");
    assert!(run(&fake, "template delete x").1.starts_with("template x deleted in "));
    fake.state().faults.push_back(Fault::new(Reason::TemplateInUse, "template x is in use"));
    assert_eq!(run(&fake, "template delete x").0, 207);
}

#[test]
fn faults_become_a_sentence_and_a_status() {
    let fake = Fake::started();
    let fault = Fault::new(Reason::Busy, "container 101: start holds it since 12:00:03; wait")
        .fact("ct", 101)
        .fact("holder", "start");
    fake.state().faults.push_back(fault.clone());
    assert_eq!(
        run(&fake, "stop 101"),
        (9, String::new(), "virtctl: container 101: start holds it since 12:00:03; wait\n".into())
    );
    fake.state().faults.push_back(fault.clone());
    let (status, stdout, stderr) = run(&fake, "stop 101 -o json");
    assert_eq!((status, stdout.as_str()), (9, ""));
    let told: serde_json::Value = serde_json::from_str(&stderr).expect("a fault as JSON");
    assert_eq!(told["reason"], "BUSY");
    assert_eq!(told["facts"]["holder"], "start");
    assert_eq!(told["retry_after"], 0.5);
    fake.state().faults.push_back(fault);
    assert!(run(&fake, "stop 101 -o yaml").2.starts_with("reason: BUSY\n"));
    // The same failure inside an operation.
    fake.state().pace = Pace::Fails(Reason::Running);
    assert_eq!(run(&fake, "destroy 101").0, 32);
    assert_eq!(run(&fake, "start 999").0, 14);
    assert_eq!(run(&fake, "start nobody").0, 14);
}

#[test]
fn wrong_command_lines_end_with_2_and_ask_nothing() {
    let fake = Fake::started();
    for line in [
        "",
        "nonsense",
        "start",
        "start 0",
        "start 99999999999",
        "start a/b",
        "create 101",
        "create 101 --ostemplate ../../etc",
        "create 101 --ostemplate t --ipadd 10.0.0.0/8",
        "create 101 --ostemplate t --config nonsense",
        "create web --ostemplate t --name shop",
        "set 101",
        "set 101 --save",
        "set 101 --numproc many",
        "set 101 --numproc 2:1",
        "set 101 --numproc 1k",
        "set 101 --ram 1x",
        "set 101 --diskspace -5",
        "set 101 --hostname -bad-",
        "set 101 --userpasswd root",
        "set 101 --applyconfig nonsense",
        "exec 101",
        "resources",
        "list --nonsense",
        "stop 101 --timeout x",
        "runscript 101 /nonexistent",
    ] {
        let (status, stdout, stderr) = run(&fake, line);
        assert_eq!(status, 2, "{line}: {stderr}");
        assert_eq!(stdout, "", "{line}");
        assert!(!stderr.is_empty(), "{line}");
        assert_eq!(fake.calls(), Vec::<String>::new(), "{line}");
    }
    let (status, _, stderr) = run(&fake, "set 101 --ram 1x -o json");
    let told: serde_json::Value = serde_json::from_str(&stderr).expect("a fault as JSON");
    assert_eq!((status, told["reason"].as_str()), (2, Some("BAD_VALUE")), "{stderr}");
}

#[test]
fn what_is_not_built_says_so_and_changes_nothing() {
    let fake = Fake::started();
    for line in [
        "convert --from /srv 101",
        "suspend 101",
        "checkpoint 101",
        "chkpnt 101",
        "resume 101",
        "restore 101",
        "restore f 101",
        "pause 101",
        "unpause 101",
        "snapshot 101 --with-memory",
        "snapshot 101 --name n --description d",
        "snapshot-switch 101 --must-resume --id 019ab4a0-0000-7000-8000-000000000001",
        "snapshot-mount 101 --id i",
        "snapshot-umount 101 --id i",
        "migrate 101 n2 --online",
        "backup 101 f",
        "verify",
        "import --openvz 101.conf",
        "node add n2",
        "node drain n2",
        "node undrain n2",
        "node remove n2",
        "create 101 --ostemplate t --node n2",
        "create 101 --ostemplate t --ipadd 10.0.0.1 --iolimit 1m",
        "set 101 --ram 1g --netif_add eth0 --save",
        "set 101 --netfilter full",
    ] {
        let (status, stdout, stderr) = run(&fake, line);
        assert_eq!((status, stdout.as_str()), (5, ""), "{line}: {stderr}");
        assert!(stderr.contains("not built yet"), "{line}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{line}");
        let (_, _, stderr) = run(&fake, &format!("{line} -o json"));
        let told: serde_json::Value = serde_json::from_str(&stderr).expect("a fault as JSON");
        assert_eq!(told["reason"], "NOT_BUILT", "{line}");
        assert_eq!(fake.calls(), Vec::<String>::new(), "{line}");
    }
    assert!(run(&fake, "set 101 --netif_add eth0").2.contains("--netif_add"));
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
    assert_eq!((status, steps.as_str()), (0, "snapshot step one\nsnapshot step two\n"));
    let calls = fake.calls();
    assert!(calls[0].contains("name: \"x\"") && calls[0].contains("dry_run: true"), "{calls:?}");
}

#[test]
fn progress_without_a_terminal_is_lines() {
    let fake = Fake::started();
    fake.state().pace = Pace::Slow;
    assert_eq!(
        run(&fake, "create 105 --ostemplate t"),
        (
            0,
            "container 105 created in 2.5 s\n".to_owned(),
            "container 105: begin\ncontainer 105: unpack\ncontainer 105: mount\n".to_owned()
        )
    );
    assert_eq!(run(&fake, "create 105 --ostemplate t --quiet").2, "");
    assert_eq!(run(&fake, "create 105 --ostemplate t -o json").2, "");
}

#[test]
fn a_coordinator_that_dies_in_a_call_is_asked_again() {
    let fake = Fake::started();
    // A read, and changes, which carry a request id.
    for line in ["list -a", "start 102", "stop 101", "set 101 --name other --save", "destroy 102"] {
        fake.calls();
        fake.state().deaths = 2;
        let (status, _, stderr) = run(&fake, line);
        assert_eq!(status, 0, "{line}: {stderr}");
        let calls = fake.calls();
        assert!(calls.len() > 2 && calls.iter().take(3).all(|c| *c == calls[0]), "{calls:?}");
        assert!(line.starts_with("list") || calls[0].contains("request_id"), "{calls:?}");
    }
    // In the middle of a watch.
    fake.state().pace = Pace::Dies;
    let (status, _, stderr) = run(&fake, "start 102");
    assert_eq!((status, fake.state().watches), (0, 2), "{stderr}");
    // A session is not begun twice.
    fake.calls();
    fake.state().deaths = 1;
    let (status, _, stderr) = run(&fake, "exec 101 -- true");
    assert_ne!(status, 0, "{stderr}");
    assert_eq!(fake.calls().len(), 1);
}

#[test]
fn a_restarting_coordinator_is_waited_for() {
    // A watch that is cut off is taken up again.
    let fake = Fake::started();
    fake.state().pace = Pace::Cut;
    assert_eq!(run(&fake, "start 102").0, 0);
    assert_eq!(fake.state().watches, 2);
    // So is a call that came too early; with the same request id.
    fake.state().pace = Pace::AtOnce;
    fake.calls();
    fake.state().faults.push_back(Fault::new(Reason::Starting, "starting"));
    assert_eq!(run(&fake, "stop 101").0, 0);
    let calls = fake.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], calls[1]);
    // Nobody there at all: at once where not even the directory is.
    let (status, _, stderr) = out(virtctl(&fake).args(["list", "--socket", "/nonexistent/s"]));
    assert_eq!(status, 200);
    assert!(stderr.contains("no coordinator listens at /nonexistent/s"), "{stderr}");
    let late = Fake::new();
    let (status, _, stderr) = run(&late, "list --patience 0");
    assert_eq!(status, 200, "{stderr}");
    std::thread::scope(|scope| {
        let list = scope.spawn(|| run(&late, "list -1"));
        // It finds nobody, and looks again.
        let began = std::time::Instant::now();
        late.until("a while", |_| began.elapsed() > std::time::Duration::from_millis(300));
        late.listen();
        assert_eq!(list.join().expect("it ends"), (0, "101\n".to_owned(), String::new()));
    });
}

#[test]
fn commands_inside_end_as_they_end() {
    let fake = Fake::started();
    for (line, status) in [
        ("exec 101 exit 0", 0),
        ("exec 101 exit 7", 7),
        ("exec2 101 exit 255", 255),
        ("exec 101 die 9", 137),
        ("exec 101 missing", 127),
        ("exec 101 cut", 200),
        ("exec 999 exit 0", 14),
    ] {
        assert_eq!(run(&fake, line).0, status, "{line}");
    }
    assert_eq!(run(&fake, "exec 101 both"), (0, "out\n".into(), "err\n".into()));
    let mut input = vec![b'x'; 200_000];
    input.push(b'\n');
    let cat = out(virtctl(&fake).args(["exec", "101", "cat"]).write_stdin(input.clone()));
    assert_eq!((cat.0, cat.1.len()), (0, input.len()));
    let none = out(virtctl(&fake).args(["exec", "-n", "101", "cat"]).write_stdin("lost"));
    assert_eq!((none.0, none.1.as_str()), (0, ""));
    fake.calls();
    run(&fake, "exec2 -e A=1 101 -- exit 0");
    let call = fake.calls().remove(0);
    assert!(call.contains("bare_env: true") && call.contains("\"A=1\""), "{call}");
    assert!(call.contains("\"HOME=/root\"") && call.contains("argv: [\"exit\", \"0\"]"), "{call}");
    out(virtctl(&fake).args(["exec", "101", "ls | wc"]).write_stdin(""));
    assert!(fake.calls()[0].contains("argv: [\"/bin/sh\", \"-c\", \"ls | wc\"]"));
    out(virtctl(&fake).args(["enter", "101"]).write_stdin("exit\n"));
    assert!(fake.calls()[0].contains("argv: [], env: [], tty: None"));
    let script = fake.dir().join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 3\n").expect("a script");
    fake.state().input.clear();
    let status = out(virtctl(&fake).args(["runscript", "101"]).arg(&script).arg("arg")).0;
    assert_eq!(status, 0);
    assert_eq!(fake.state().input, b"#!/bin/sh\nexit 3\n");
    assert!(fake.calls()[0].contains("\"sh\", \"arg\"]"));
    assert_eq!(run(&fake, "console 101 --scrollback").1, "login: ");
}

#[test]
fn passwords_go_by_stdin_only() {
    let fake = Fake::started();
    let (status, stdout, stderr) = run(&fake, "set 101 --userpasswd root:s3same");
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("password of root in container 101 set in "), "{stdout}");
    assert_eq!(fake.state().input, b"root:s3same\n");
    assert!(fake.calls().iter().all(|call| !call.contains("s3same")));
    let line = ["set", "101", "--userpasswd", "-"];
    assert_eq!(out(virtctl(&fake).args(line).write_stdin("u:pw2\n")).0, 0);
    assert_eq!(fake.state().input, b"root:s3same\nu:pw2\n");
    for bad in ["set 101 --userpasswd s3same", "set 101 --userpasswd R:s3same"] {
        let (status, _, stderr) = run(&fake, bad);
        assert_eq!(status, 2);
        assert!(!stderr.contains("s3same"), "{stderr}");
    }
    fake.state().faults.push_back(Fault::new(Reason::NotRunning, "container 102 does not run"));
    assert_eq!(run(&fake, "set 102 --userpasswd root:x").0, 31);
    assert_eq!(run(&fake, "create 102 --ostemplate t --userpasswd root:x").0, 31);
}

#[test]
fn limits_that_are_not_kept_are_remarked_on() {
    let fake = Fake::started();
    let (status, _, stderr) = run(&fake, "set 101 --numproc 5 --numfile 5 --kmemsize 1m --ram 1g");
    assert_eq!(status, 0);
    assert_eq!(
        stderr,
        "note: this node does not limit kmemsize: unavailable (not counted yet)\n\
         note: this node does not limit numfile: accounted\n"
    );
}

/// What bash offers at the end of `line`.
fn complete(fake: &Fake, script: &std::path::Path, line: &str) -> (i32, String, String) {
    let program = assert_cmd::cargo::cargo_bin!("virtctl");
    let path = program.parent().expect("it is in a directory").display();
    let words: Vec<&str> = line.split(' ').collect();
    let shell = format!(
        "PATH={path}:$PATH; source {}; COMP_WORDS=({line}); COMP_CWORD={}; _virtctl_names virtctl {} \
         {}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    out(Command::new("bash").args(["--norc", "-c", &shell]).env("VES_SOCKET", fake.socket()))
}

#[test]
fn a_command_is_the_beginning_of_a_trace() {
    let fake = Fake::started();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let otlp = runtime.block_on(ves_kit::Otlp::start());
    for line in ["start 101", "start 999"] {
        let status = out(virtctl(&fake)
            .args(line.split(' '))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint()));
        assert_eq!(status.2.is_empty(), status.0 == 0, "{}", status.2);
    }
    let spans: Vec<_> = otlp.spans().into_iter().filter(|s| s.name == "virtctl start").collect();
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(spans.iter().all(|s| s.service == "virtctl" && s.parent.is_empty()));
    assert_eq!(spans.iter().map(|s| s.failed).collect::<Vec<_>>(), [false, true]);
    // The call carries it on.
    let parents = std::mem::take(&mut fake.state().parents);
    assert!(parents[0].contains(&spans[0].trace), "{parents:?} {spans:?}");
}

#[test]
fn help_completion_and_man_pages() {
    let fake = Fake::new();
    let (status, help, _) = run(&fake, "--help");
    assert_eq!(status, 0);
    let golden = include_str!("../golden/help.txt");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &help).expect("the golden file");
    } else {
        assert_eq!(help, golden, "UPDATE_GOLDEN=1 cargo test -p virtctl takes the new text");
    }
    assert_eq!(run(&fake, "--version").1, concat!("virtctl ", env!("CARGO_PKG_VERSION"), "\n"));
    for (shell, mark) in [
        ("bash", "complete -F _virtctl"),
        ("zsh", "#compdef virtctl"),
        ("fish", "complete -c virtctl"),
    ] {
        let (status, script, _) = run(&fake, &format!("completion {shell}"));
        assert_eq!(status, 0);
        assert!(script.contains(mark) && script.contains("numothersock"), "{shell}");
    }
    let bash = fake.dir().join("completion");
    std::fs::write(&bash, run(&fake, "completion bash").1).expect("the script");
    let (status, names, stderr) = complete(&Fake::started(), &bash, "virtctl start 10");
    assert_eq!((status, names.as_str(), stderr.as_str()), (0, "101\n102\n103\n", ""));
    assert_eq!(complete(&Fake::started(), &bash, "virtctl stop w").1, "web\n");
    assert_eq!(complete(&fake, &bash, "virtctl resta").1, "restart\n");
    let dir = fake.dir().join("man");
    assert_eq!(run(&fake, &format!("man {}", dir.display())).0, 0);
    for page in ["virtctl.1", "virtctl-set.1", "virtctl-template-import.1"] {
        assert!(dir.join(page).is_file(), "{page}");
    }
}
