//! Docker and Podman of Debian inside a container that nests, with an image that is made there: nothing is pulled.
//!
//! Too heavy for each run, for its template has 500 MB: who changes what nesting opens runs it by hand, as
//! docs/guests.md says. What it needs of the kernel is shown by the tests of features.

use std::time::Duration;

use ves_init_proto::report::Ended;
use ves_kit::wait_until;
use ves_lifecycle::plan::Spec;
use ves_types::{Feature, Features};

use super::distributions::{ready, template};
use super::support::World;

/// What is installed; the first names the archive.
const PACKAGES: &str = "podman,nftables,docker.io,docker-cli,iptables,busybox-static,systemd-sysv,dbus,procps,uidmap,\
                        passwd,aardvark-dns";

/// Makes an image of busybox alone.
const IMAGE: &str =
    "set -e; mkdir -p /srv/image/bin /srv/image/tmp; cd /srv/image; cp /bin/busybox bin
    for name in sh echo ping httpd wget cat id mount; do ln -s busybox bin/$name; done
    echo hello > hello; chmod 1777 tmp; tar -cf ../image.tar .";

/// Two containers of `$engine` on a network of their own: one serves, and the other finds it by its name.
const TALK: &str = "set -e; $engine import /srv/image.tar local/box:1 > /dev/null
    $engine run --rm $options local/box:1 echo plain
    $engine network create inner > /dev/null
    $engine run -d --name served $options --network inner local/box:1 httpd -f -h / > /dev/null
    $engine run --rm $options --network inner local/box:1 sh -c \
        'for n in 1 2 3 4 5; do wget -q -O - http://served/hello && exit; sleep 1; done; exit 1'
    $engine rm -f served > /dev/null; $engine network rm inner > /dev/null";

/// As a user who is not root and has users of his own, in a user namespace in that of the container.
const ROOTLESS: &str =
    "set -e; useradd -m someone; echo someone:10000:40000 | tee /etc/subuid > /etc/subgid
    su - someone -c 'podman import /srv/image.tar local/box:1 > /dev/null &&
        podman run --rm --network none --cgroups=disabled local/box:1 sh -c \
        \"id -u && cat /proc/1/comm && touch /tmp/x && echo rootless\"'";

#[test]
#[ignore = "builds a template of 500 MB; by hand: cargo nextest run -p ves-hosttests --run-ignored only nested::"]
fn docker_and_podman_run_what_was_made_inside() {
    if !ready() {
        return;
    }
    let Some(tar) = template("trixie", PACKAGES) else { return };
    let world = World::from_tar(9454, &tar, |_| {});
    let features = Features::default().with(Feature::Nesting, true);
    world.start(Spec { features, ram_bytes: Some(2 << 30), ..world.spec() });
    wait_until(Duration::from_secs(180), "it has booted", || {
        world.observe().monitor.is_some_and(|m| m.booted)
    });
    let run = |script: &str| {
        let outcome = world.exec(&["sh", "-c", script]);
        assert_eq!(outcome.ended, Ok(Ended::Code(0)), "{}: {outcome:?}", {
            String::from_utf8_lossy(&outcome.error)
        });
        outcome.text()
    };
    run(IMAGE);
    // Without version 2's controllers Podman must be told to limit nothing.
    let pids = world.sh("grep -c pids /sys/fs/cgroup/cgroup.controllers || true");
    let options = if pids.trim() == "0" { "--pids-limit=0" } else { "" };
    for (engine, options) in [("docker", ""), ("podman", options)] {
        let begun = std::time::Instant::now();
        let said = run(&format!("engine={engine}; options={options}; {TALK}"));
        assert_eq!(said, "plain\nhello\n", "{engine}");
        eprintln!("{engine}: {:?}", begun.elapsed());
    }
    assert_eq!(run(ROOTLESS), "0\nsh\nrootless\n");
    assert_eq!(world.sh("systemctl --failed --no-legend --plain"), "", "no unit failed");
}
