//! Building a template: the one long work that is a stream of storage's and no plan.
//!
//! ```text
//!  stored ─ stream ─┬─ template ─ Succeeded
//!                   ├─ fault, or storage goes away ─ Failed
//!                   └─ cancel: the stream is dropped, storage cleans up ─ Cancelled
//! a coordinator that finds one unfinished when it starts ─ Failed; building again is harmless
//! ```

use ves_proto::{Fault, Reason, storage};

use crate::coordinator::Coordinator;
use crate::operation::kinds::Action;
use crate::operation::record::{OpRecord, Progress};
use crate::services::fault_of;

impl Coordinator {
    /// Carries a template's build out to its end.
    pub(crate) async fn drive_template(&self, op: &OpRecord) {
        let Action::TemplateBuild(build) = &op.action else {
            let message = format!("{} without a container", op.action.kind().name());
            return self.finish_template(op, Some(Fault::new(Reason::Bug, message))).await;
        };
        let result = tokio::select! {
            result = self.build(op, build.request()) => result,
            () = self.cancelled(op) => Err(op.cancelled()),
        };
        self.finish_template(op, result.err()).await;
    }

    async fn build(
        &self,
        op: &OpRecord,
        request: storage::BuildTemplateRequest,
    ) -> Result<(), Fault> {
        use storage::template_progress::Is;
        let fail = |status: &tonic::Status| fault_of("storage", status);
        let answer = self.services().storage.clone().build_template(request).await;
        let mut stream = answer.map_err(|s| fail(&s))?.into_inner();
        while let Some(message) = stream.message().await.map_err(|s| fail(&s))? {
            match message.is {
                Some(Is::Progress(p)) => self.state().progress(&op.id, |op| {
                    if op.progress.what != p.what && !p.what.is_empty() {
                        op.steps.push(format!("storage: {}", p.what));
                    }
                    op.progress = Progress { what: p.what.clone(), done: p.done, total: p.total };
                }),
                Some(Is::Template(_)) => return Ok(()),
                None => {}
            }
        }
        let message = "storage ended the build without a template; look at its log";
        Err(Fault::new(Reason::HostFailed, message).fact("step", "build"))
    }

    /// Ends a build that was under way when the coordinator was killed.
    pub(crate) async fn drop_template(&self, op: &OpRecord) {
        let message = "the build was interrupted by a restart of the coordinator; build it again";
        let fault = Fault::new(Reason::PeerDown, message).fact("service", "coordinator");
        self.finish_template(op, Some(fault)).await;
    }

    /// Stores the end of an operation without a container.
    async fn finish_template(&self, op: &OpRecord, fault: Option<Fault>) {
        let now = self.clock().now_ms();
        self.store(op, move |op| op.end(now, fault.as_ref()), None).await;
    }
}
