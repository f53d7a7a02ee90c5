//! Examples of each verb. Lines that begin with `# ` are typed by root; others are the answer.
//!
//! A test reads each of them by the grammar. Never here: how a page looks.

/// What somebody may want of a verb, and how that is said.
#[derive(Debug)]
pub(super) struct Example {
    /// The verb, in all its words.
    pub(super) verb: &'static str,
    /// What for.
    pub(super) what: &'static str,
    /// Commands and answers.
    pub(super) lines: &'static [&'static str],
}

/// Those of a verb, in order.
pub(super) fn of(verb: &str) -> Vec<&'static Example> {
    ALL.iter().filter(|example| example.verb == verb).collect()
}

macro_rules! examples {
    ($($verb:literal: $what:literal $($line:literal)+;)*) => {
        /// All of them.
        pub(super) const ALL: &[Example] = &[
            $(Example { verb: $verb, what: $what, lines: &[$($line),+] },)*
        ];
    };
}

examples! {
    "template list": "What containers can be made from"
        "# virtctl template list";
    "template build": "A template of Debian 13 with a web server"
        "# virtctl template build web --suite trixie --package nginx-light";
    "template import": "From an archive of another system"
        "# virtctl template import /srv/rootfs.tar.zst --name legacy";
    "template import": "From an image of Docker, which must be flattened first"
        "# docker create --name x debian:trixie && docker export x | virtctl template import - --name d13";
    "template export": "To another machine"
        "# virtctl template export web - | ssh backup 'cat > web.tar.zst'";
    "template delete": "One that nobody needs"
        "# virtctl template delete web";
    "create": "A container with an address, a disk of 10 GiB and 1 GiB of memory"
        "# virtctl create 101 --ostemplate debian-trixie --hostname www.example.org --ipadd 192.0.2.101 --diskspace 10G --ram 1G"
        "container 101 created in 66 ms";
    "create": "What would be done, without doing it"
        "# virtctl create web --ostemplate debian-trixie --ipadd 192.0.2.102,2001:db8::102 --dry-run";
    "set": "More memory, at once and from now on"
        "# virtctl set 101 --ram 1G --swap 512M --save"
        "container 101 changed and saved in 21 ms";
    "set": "One and a half processors, on the first four"
        "# virtctl set 101 --cpulimit 150 --cpumask 0-3 --save";
    "set": "No more than 20 MiB a second from and to its disk"
        "# virtctl set 101 --iolimit 20M --save";
    "set": "Another address for the one it has"
        "# virtctl set 101 --ipdel 192.0.2.101 --ipadd 192.0.2.111 --save";
    "set": "A label of its customer's, by which it can be found, and no destruction by mistake"
        "# virtctl set 101 --label customer=17 --delete-protection yes --save";
    "set": "A user's password, which is read from standard input"
        "# virtctl set 101 --userpasswd - <<< admin:secret";
    "start": "And wait until it has booted"
        "# virtctl start 101 --wait"
        "container 101 started and booted in 3.1 s";
    "stop": "Ask its init, for 30 seconds"
        "# virtctl stop 101 --timeout 30";
    "stop": "At once"
        "# virtctl stop 101 --fast";
    "restart": "Stop it and start it again"
        "# virtctl restart 101 --wait";
    "destroy": "One that is stopped, with its snapshots"
        "# virtctl stop 101"
        "# virtctl destroy 101";
    "mount": "Its volume, so that the next start need not"
        "# virtctl mount 101";
    "umount": "Let its volume go"
        "# virtctl umount 101";
    "fsck": "Mend a file system that is said to be damaged"
        "# virtctl stop 101"
        "# virtctl fsck 101";
    "status": "In one line"
        "# virtctl status 101"
        "CTID 101 exist mounted running";
    "status": "For a program"
        "# virtctl status 101 -o json";
    "enter": "A shell of root"
        "# virtctl enter 101";
    "exec": "Words are a line of shell"
        "# virtctl exec 101 'cd /srv && ls | wc -l'";
    "exec": "After two hyphens they are a program and its arguments"
        "# virtctl exec 101 -- grep -c '^a b' /etc/passwd";
    "exec2": "With a variable of its own"
        "# virtctl exec2 -e LANG=C.UTF-8 101 -- env";
    "runscript": "A script of this machine, with an argument"
        "# virtctl runscript 101 ./setup.sh production";
    "snapshot": "Before a change that may go wrong"
        "# virtctl snapshot 101 --name before-upgrade";
    "set": "A snapshot every hour and every day, of which the last 24 and the last 7 are kept"
        "# virtctl set 101 --snapshots hourly:24,daily:7 --save";
    "snapshot-list": "What it can go back to"
        "# virtctl snapshot-list 101";
    "snapshot-switch": "Go back; what the disk holds now is lost"
        "# virtctl stop 101"
        "# virtctl snapshot-switch 101 --id 019ab4a0-0000-7000-8000-000000000001"
        "# virtctl start 101";
    "snapshot-delete": "Give its room back"
        "# virtctl snapshot-delete 101 --id 019ab4a0-0000-7000-8000-000000000001";
    "console": "What was last on it"
        "# virtctl console 101 --scrollback";
    "list": "All containers, also stopped ones"
        "# virtctl list -a"
        "CTID  NPROC  STATUS   IP_ADDR                       HOSTNAME"
        " 101      6  running  192.0.2.101,2001:db8:56::101  web1";
    "list": "What of their limits this node does not wholly keep"
        "# virtctl list -a --fields ctid,iolimit,notes";
    "list": "Those of one customer, and what they are for"
        "# virtctl list --filter 'labels.customer=17' --labels purpose";
    "list": "For a program"
        "# virtctl list -a -o json";
    "top": "Who uses the node"
        "# virtctl top";
    "resources": "All parameters of one container"
        "# virtctl resources 101";
    "resources": "As /proc/bc/101/resources had them"
        "# virtctl resources 101 -r";
    "watch": "What becomes of containers, for a program"
        "# virtctl watch --follow -o json";
    "events": "What has happened, and what happens from now on"
        "# virtctl events --follow";
    "events": "When a container went down, and why, in the last week"
        "# virtctl events 101 --since 7d --type stopped,rebooted,out_of_memory";
    "events": "Who opened sessions, for a program"
        "# virtctl events --since 2026-01-31 --type session_opened -o csv --fields time,target,actor,facts";
    "operation list": "What is being done"
        "# virtctl operation list";
    "operation show": "How far it is"
        "# virtctl operation show 019ab4a0-0000-7000-8000-000000000001";
    "operation cancel": "Take it back"
        "# virtctl operation cancel 019ab4a0-0000-7000-8000-000000000001";
    "operation wait": "Until it is done"
        "# virtctl operation wait 019ab4a0-0000-7000-8000-000000000001";
    "node list": "What nodes there are"
        "# virtctl node list";
    "node pool": "How much can still be promised"
        "# virtctl node pool";
    "node capacity": "What this node has, and which limits it really keeps"
        "# virtctl node capacity";
    "node init-ca": "Before the API listens in the network: an authority, this node's certificate, and the settings"
        "# virtctl node init-ca --san node1.example >> /etc/ves/coordinator.toml";
    "node cert issue": "For a panel that may all but say who may what; a context keeps where it is"
        "# virtctl node cert issue panel --role operator --out /root/panel --context node1 --endpoint https://node1.example:7443";
    "node cert issue": "For a customer, who sees the containers of one project"
        "# virtctl node cert issue acme --role tenant --project acme --days 90 --out /root/acme";
    "node cert list": "Whose end when"
        "# virtctl node cert list -s ends";
    "node cert revoke": "All of a holder"
        "# virtctl node cert revoke panel";
    "node token create": "For a program without certificates, which only looks"
        "# virtctl node token create billing --role read-only --expire 90d > token";
    "node token list": "Which were used when"
        "# virtctl node token list --fields name,role,used";
    "node token revoke": "By its holder"
        "# virtctl node token revoke billing";
    "context list": "Whom one can ask"
        "# virtctl context list";
    "context use": "From now on that node, until this one's socket again"
        "# virtctl context use node1"
        "# virtctl context use local";
    "completion": "For the shell you are in"
        "# virtctl completion bash > /etc/bash_completion.d/virtctl";
    "man": "Where man finds them"
        "# virtctl man /usr/local/share/man/man1";
}
