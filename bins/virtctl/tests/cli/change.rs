//! Verbs that change a container: what is sent and what is printed.
//!
//! Never here: a real container.

use ves_proto::{Fault, Reason};

use crate::fake::{Fake, Pace};
use crate::program::{json, out, run, virtctl};

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
        ("fsck 102", "container 102 checked in 1.2 s\n"),
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
         --ipadd 2001:db8::1,10.0.0.2 --nameserver 10.0.0.53 --diskspace 2G --diskinodes 2000 \
         --ram 512M --swap 1G --cpulimit 150 --cpuunits 500 --cpus 2 --numproc 100:200 --onboot yes \
         --bootorder 5 --description d --searchdomain example.org --disabled no",
    );
    for part in [
        "ct_id: 101",
        "alias: \"web\"",
        "hostname: \"w.example\"",
        "template: \"templates/debian-13\"",
        "addresses: [\"10.0.0.1\", \"2001:db8::1\", \"10.0.0.2\"]",
        "nameservers: [\"10.0.0.53\"]",
        "search_domains: [\"example.org\"]",
        "id: \"venet0\", r#type: Venet",
        "Volume { id: \"root\", size_bytes: 2147483648, inodes: Some(2000) }",
        "physpages: Some(Bounds { barrier: Some(0), limit: Some(131072) })",
        "swappages: Some(Bounds { barrier: Some(0), limit: Some(262144) })",
        "numproc: Some(Bounds { barrier: Some(100), limit: Some(200) })",
        "cpu_millicpus: Some(1500)",
        "cpus: Some(2)",
        "cpu_units: Some(500)",
        "start_on_boot: true",
        "boot_order: Some(5)",
        "disabled: false",
        "validate_only: false",
    ] {
        assert!(create.contains(part), "{part}: {create}");
    }
    let set = call(
        "set web --ipadd 10.0.0.9 --ipdel all --kmemsize 1m:2m --save --setmode restart --cpulimit 0",
    );
    for part in [
        "name: \"containers/web\"",
        "paths: [\"spec.limits.ubc.kmemsize\", \"spec.limits.cpu_millicpus\"]",
        "kmemsize: Some(Bounds { barrier: Some(1048576), limit: Some(2097152) })",
        "cpu_millicpus: None",
        "until_stop: false",
        "apply: Restart",
        "add_addresses: [\"10.0.0.9\"]",
        "remove_addresses: []",
        "remove_all_addresses: true",
    ] {
        assert!(set.contains(part), "{part}: {set}");
    }
    let set = call(
        "set 101 --devnodes net/tun:rw,fuse:none --devnodes kvm:r --devices c:10:232:rw --capability \
         net_raw:off,CAP_KILL:on --save",
    );
    for part in [
        "set_devices: [Device { id: \"net/tun\", read: true, write: true }, Device { id: \"kvm\", read: true, \
         write: false }, Device { id: \"c:10:232\", read: true, write: true }]",
        "remove_devices: [\"fuse\"]",
        "drop_capabilities: [\"NET_RAW\"], restore_capabilities: [\"KILL\"]",
        "paths: []",
    ] {
        assert!(set.contains(part), "{part}: {set}");
    }
    let create = call(
        "create 101 --ostemplate t --devnodes net/tun:rw,fuse:rw --devices c:10:232:r --devnodes fuse:none \
         --capability net_raw:off,kill:on",
    );
    for part in [
        "devices: [Device { id: \"net/tun\", read: true, write: true }, Device { id: \"c:10:232\", read: true, \
         write: false }]",
        "dropped_capabilities: [\"NET_RAW\"]",
    ] {
        assert!(create.contains(part), "{part}: {create}");
    }
    let stop = call("stop 101 --fast --timeout 7 --skip-umount");
    let stop_parts =
        ["mode: Kill", "grace: Some(Duration { seconds: 7, nanos: 0 })", "keep_mounted: true"];
    for part in stop_parts {
        assert!(stop.contains(part), "{part}: {stop}");
    }
    let start = call("start 101 --force --wait");
    assert!(start.contains("until: Booted, override_disabled: true"), "{start}");
    let sample = call("create 101 --ostemplate t --config vswap-256m --ram 1g");
    for part in ["limit: Some(262144)", "limit: Some(131072)", "size_bytes: 2147483648"] {
        assert!(sample.contains(part), "{part}: {sample}");
    }
    assert!(!call("set 101 --applyconfig basic").contains("volumes\""));
    let build = call("template build t --suite trixie --init sysvinit --package a,b --package c");
    assert!(build.contains("init: Sysvinit, packages: [\"a\", \"b\", \"c\"]"), "{build}");
}

#[test]
fn labels_are_added_to_those_there_are() {
    let fake = Fake::started();
    fake.state().rivals = 2;
    let line = "set web --label tier=gold --label customer- --annotation note=x --delete-protection yes --save";
    assert_eq!(run(&fake, line).0, 0);
    let updates: Vec<_> =
        fake.calls().into_iter().filter(|call| call.starts_with("UpdateContainer")).collect();
    assert_eq!(updates.len(), 3, "{updates:?}");
    for part in [
        "labels: {\"tier\": \"gold\"}, annotations: {\"note\": \"x\"}",
        "etag: \"101-3\"",
        "delete_protection: true",
        "paths: [\"delete_protection\", \"labels\", \"annotations\"]",
    ] {
        assert!(updates[2].contains(part), "{part}: {updates:?}");
    }
    let id = |call: &str| call.split("request_id: ").nth(1).map(|rest| rest[..38].to_owned());
    assert_ne!(id(&updates[0]), id(&updates[1]), "another request each");
    fake.state().rivals = 100;
    assert_eq!(run(&fake, "set web --label a=b --save").0, 203);
    fake.calls();
    let create = "create shop --ostemplate t --label customer=17 --annotation a=b=c --project p1";
    assert_eq!(run(&fake, create).0, 0);
    let create = fake.calls().remove(0);
    for part in ["{\"customer\": \"17\"}", "{\"a\": \"b=c\"}", "project: \"projects/p1\""] {
        assert!(create.contains(part), "{part}: {create}");
    }
    for bad in ["create shop --ostemplate t --label x-", "set web --label x", "set web --label =x"]
    {
        assert_eq!(run(&fake, bad).0, 2, "{bad}");
        assert_eq!(fake.calls(), Vec::<String>::new(), "{bad}");
    }
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
        let lines: Vec<&str> = stdout.lines().collect();
        let steps =
            lines.len() == 2 && lines[0].starts_with("storage: ") && lines[1].starts_with("  ");
        assert!(steps && lines[0].ends_with(" step one"), "{line}: {stdout}");
        assert!(fake.calls()[0].contains("validate_only: true"), "{line}");
    }
    assert_eq!(json(&fake, "start 102 --dry-run")["steps"][1], "  start step two");
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
        vec![ves_proto::api::Template { name: "templates/t".into(), ..Default::default() }];
    assert_eq!(run(&fake, "template build t --suite trixie --dry-run").0, 206);
    assert_eq!(json(&fake, "template delete t --dry-run")["steps"][0], "delete template t");
    let verbose = run(&fake, "start 102 --verbose");
    assert_eq!(verbose.2, "  storage: start step one\n    start step two\n");
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
    let (status, _, stderr) = run(&fake, "set 101 --iolimit 1m --iopslimit 10 --save");
    assert_eq!((status, stderr.as_str()), (0, "note: --iolimit: not what is written late\n"));
    assert_eq!(run(&fake, "set 101 --iolimit 1m --save --quiet").2, "");
}
