//! What cannot be done: its sentence, its JSON and its exit status.
//!
//! Never here: what can be done.

use ves_proto::{Fault, Reason};

use crate::fake::{Fake, Pace};
use crate::program::run;

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
    assert_eq!((&told["retry_after"], &told["violations"]), (&0.5.into(), &serde_json::json!([])));
    fake.state().faults.push_back(fault);
    assert!(run(&fake, "stop 101 -o yaml").2.starts_with("reason: BUSY\n"));
    // All that is wrong at once.
    let wrong = |field: &str, why: &str| Fault::new(Reason::BadValue, why).fact("field", field);
    let both = [
        wrong("container.spec.hostname", "bad host name \"-\""),
        wrong("request_id", "is too long"),
    ];
    fake.state().faults.push_back(Fault::all(both.into()).expect("two are wrong"));
    let (status, _, stderr) = run(&fake, "stop 101");
    assert_eq!(status, 2);
    assert_eq!(
        stderr,
        "virtctl: bad host name \"-\"; is too long\n  container.spec.hostname: bad host name \"-\"\n  \
         request_id: is too long\n"
    );
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
        "create 101 --ostemplate t --ipadd 10.0.0.1 --memguarantee auto",
        "set 101 --ram 1g --netif_add eth0 --save",
        "set 101 --rate eth0:1:100",
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
fn what_is_never_taken_says_why_and_what_to_do() {
    let fake = Fake::started();
    for (line, words) in [
        ("set 101 --pci_add 0:1.0 --save", "virtual machine"),
        ("set 101 --ram 1g --root /vz/root/101 --save", "storage"),
        ("set 101 --diskquota no --save", "hard size"),
        ("set 101 --netfilter disabled --save", "filter on the node"),
        ("create 101 --ostemplate t --meminfo pages:100", "--ram"),
    ] {
        let (status, stdout, stderr) = run(&fake, line);
        assert_eq!((status, stdout.as_str()), (5, ""), "{line}: {stderr}");
        assert!(stderr.contains(words) && stderr.lines().count() == 1, "{line}: {stderr}");
        let (_, _, stderr) = run(&fake, &format!("{line} -o json"));
        let told: serde_json::Value = serde_json::from_str(&stderr).expect("a fault as JSON");
        assert_eq!(told["reason"], "NOT_OFFERED", "{line}");
        for fact in ["what", "why", "instead"] {
            assert!(told["facts"][fact].as_str().is_some_and(|f| !f.is_empty()), "{line}: {fact}");
        }
        assert_eq!(fake.calls(), Vec::<String>::new(), "{line}");
    }
    // What every container has is taken, alone and beside others.
    let (status, stdout, stderr) = run(&fake, "set 101 --diskquota yes --save");
    assert_eq!((status, stdout.as_str()), (0, ""), "{stderr}");
    assert_eq!(stderr, "note: --diskquota yes is so of every container\n");
    assert_eq!(fake.calls(), Vec::<String>::new());
    assert_eq!(run(&fake, "set 101 --netfilter full --cpus 2 --save").0, 0);
    assert!(fake.calls()[0].contains("paths: [\"spec.limits.cpus\"]"));
}
