//! Starting, stopping and running commands, on the real kernel.

mod lifecycle_support;

use lifecycle_support::World;
use ves_host::init::report::Ended;
use ves_kit::need;

#[test]
fn starts_runs_a_command_and_stops() {
    need!(need::root(), need::disposable(), need::program("busybox", "busybox-static"));
    let world = World::new(9400, |_| {});
    let begun = std::time::Instant::now();
    world.start(world.script("trap 'exit 3' TERM; echo hello; while :; do sleep 1; done"));
    eprintln!("started in {:?}", begun.elapsed());
    eprintln!("{}", world.sh("cat /proc/self/mountinfo; ls -la /proc | head -20; ls /proc/1; cat /proc/1/stat; ps -o pid,comm; ps"));
    assert_eq!(world.exec(&["sh", "-c", "exit 7"]).ended, Ok(Ended::Code(7)));
    let after = world.stop(0);
    assert_eq!(after.monitor, None);
}
