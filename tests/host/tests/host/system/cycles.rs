//! Containers come and go without a trace: after many lives the host is exactly as it was.

use std::time::{Duration, Instant};

use ves_kit::inventory::Kind;
use ves_kit::{Inventory, Rootfs, TestNode, need, node};
use ves_types::layout::Daemon;

/// How many lives, unless `VES_CYCLES` says otherwise, as `cargo xtask test --all` does: what is left by
/// each shows after a few, what is left by some needs more.
const CYCLES: usize = 50;
/// What comes before the first inventory: files, descriptors and sets that are made once.
const WARM_UP: usize = 3;

#[test]
fn many_lives_leave_nothing() {
    need!(node::node());
    let cycles = std::env::var("VES_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(CYCLES);
    let node = TestNode::start().with_template("busybox", &Rootfs::busybox());
    let ct = node.ct();
    let (v4, v6) = (node::ipv4(ct), node::ipv6(ct));
    let live = || {
        node.ok(&format!(
            "create {ct} --ostemplate busybox --hostname c{ct} --ipadd {v4} --ipadd {v6} \
             --diskspace 128M --ram 64M --cpulimit 50 --numproc 50"
        ));
        node.ok(&format!("start {ct}"));
        assert_eq!(node.ok(&format!("exec {ct} hostname")).trim(), format!("c{ct}"));
        node.ok(&format!("stop {ct} --fast"));
        node.ok(&format!("destroy {ct}"));
    };
    for _ in 0..WARM_UP {
        live();
    }

    let daemons: Vec<u32> = Daemon::ALL
        .into_iter()
        .map(|s| node.stack().pid(s).expect("readable").expect("it runs"))
        .collect();
    let mine = |kind, line: &str| node.owns(kind, line) && !grows(kind, line);
    let settled = |daemons: &[u32]| {
        // What the kernel and the daemons take down by and by must have gone first.
        let end = Instant::now() + Duration::from_secs(60);
        let take = || Inventory::take_watching(node.layout(), daemons).only(mine);
        let mut last = take();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = take();
            if now == last || Instant::now() > end {
                return now;
            }
            last = now;
        }
    };
    let before = settled(&daemons);
    let begun = Instant::now();
    for cycle in 0..cycles {
        live();
        assert!(
            begun.elapsed() < Duration::from_secs(600),
            "{cycle} of {cycles} lives took {:?}",
            begun.elapsed()
        );
    }
    let took = begun.elapsed();
    before.wait_clean_of(node.layout(), Duration::from_secs(60), mine);
    for (service, pid) in Daemon::ALL.into_iter().zip(&daemons) {
        let now = node.stack().pid(service).expect("readable");
        assert_eq!(now, Some(*pid), "{} is still the same process", service.program());
    }
    println!(
        "{cycles} lives in {took:.1?}, {:.0?} each",
        took / u32::try_from(cycles).unwrap_or(1)
    );
}

/// What grows by design and is bounded by other tests: logs of the daemons.
fn grows(kind: Kind, line: &str) -> bool {
    kind == Kind::File && line.ends_with(".log")
}
