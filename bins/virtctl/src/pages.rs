//! Lists, which come a page at a time.
//!
//! Never here: what is listed, or which of it is wanted.

use tonic::{Response, Status};
use ves_proto::{Fault, Reason, api};

use crate::connect::Coordinator;

/// A page of a list.
pub(crate) trait Page {
    /// What is listed.
    type Item;
    /// What is on it, and where the next page begins.
    fn split(self) -> (Vec<Self::Item>, String);
}

macro_rules! pages {
    ($($page:ident $items:ident $item:ident;)*) => { $(
        impl Page for api::$page {
            type Item = api::$item;
            fn split(self) -> (Vec<api::$item>, String) {
                (self.$items, self.next_page_token)
            }
        }
    )* };
}

pages! {
    ListContainersResponse containers Container;
    ListNodesResponse nodes Node;
    ListOperationsResponse operations Operation;
    ListSnapshotsResponse snapshots Snapshot;
    ListTemplatesResponse templates Template;
    ListTokensResponse tokens Token;
    ListUsageResponse usage Usage;
}

/// All pages; `ask` asks for the one of a token.
pub(crate) async fn all<P: Page, F>(
    coordinator: &Coordinator,
    ask: impl Fn(String) -> F,
) -> Result<Vec<P::Item>, Fault>
where
    F: Future<Output = Result<Response<P>, Status>>,
{
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let (more, next) = coordinator.call(|| ask(token.clone())).await?.split();
        items.extend(more);
        if next.is_empty() {
            return Ok(items);
        }
        if next == token {
            let message = "the coordinator answered with the same page of a list twice";
            return Err(Fault::new(Reason::Bug, message));
        }
        token = next;
    }
}
