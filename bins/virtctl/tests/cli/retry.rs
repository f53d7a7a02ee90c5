//! A coordinator that dies or restarts in the middle of something.
//!
//! Never here: a coordinator that refuses.

use ves_proto::{Fault, Reason};

use crate::fake::{Fake, Pace};
use crate::program::{out, run, virtctl};

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
