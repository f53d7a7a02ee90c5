//! A container's life, verb after verb, and a line on each: `VERB BEGAN ENDED`, in microseconds since the
//! epoch; and a last line of a verb `end`, after which nothing counts. The first life only warms caches.

use std::time::{Duration, SystemTime};

use anyhow::ensure;

use crate::node::Node;

/// How long the node is left alone before each verb and after the last, so that what the one before
/// leaves to be done in the background is done, and counts as that one's.
const PAUSE: Duration = Duration::from_millis(100);

/// An init that does nothing, always in the same way. It is not asked to stop: it would not listen.
const INIT: [&str; 2] = ["/bin/sleep", "infinity"];

/// How many others run meanwhile, since some verbs look at all. Those that are missing are made.
const OTHERS: usize = 3;

/// Leads one life and then `rounds` more.
pub(crate) async fn lead(node: &Node, template: &str, rounds: usize) -> anyhow::Result<()> {
    let run = node.list().await?;
    ensure!(
        run <= OTHERS,
        "{run} containers run here; at most {OTHERS} may when lives are measured"
    );
    let mut others = Vec::new();
    for _ in run..OTHERS {
        let other = node.create_with(template, &INIT, false).await?;
        node.start(other).await?;
        others.push(other);
    }
    for _ in 0..=rounds {
        let ct = verb("create", node.create_with(template, &INIT, true)).await?;
        verb("start", node.start(ct)).await?;
        verb("set", node.set_numproc(ct, 200)).await?;
        verb("list", node.list()).await?;
        let snapshot = verb("snapshot", node.snapshot(ct)).await?;
        verb("snapshot-delete", node.delete_snapshot(&snapshot)).await?;
        verb("stop", node.stop(ct)).await?;
        verb("destroy", node.delete(ct)).await?;
    }
    // Nothing that is done now is of the last verb.
    verb("end", async { Ok(()) }).await?;
    for other in others {
        node.destroy(other).await?;
    }
    Ok(())
}

async fn verb<T>(name: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::sleep(PAUSE).await;
    let began = now()?;
    let done = work.await?;
    println!("{name} {began} {}", now()?);
    Ok(done)
}

fn now() -> anyhow::Result<u128> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros())
}
