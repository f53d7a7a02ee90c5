//! The call behind `set`. Labels and annotations change one at a time here and as a whole in the API: they are
//! read, changed and sent with the etag they were read with, again where somebody was faster.
//!
//! Never here: which parameters there are.

use ves_proto::api::{self, Container, Operation};
use ves_proto::{Fault, Reason};

use super::Context;
use super::change::request_id;
use crate::params::{TagChange, changed};

/// How often it is tried where others change the same container.
const ATTEMPTS: u32 = 5;

impl Context {
    /// Asks for a change, with these of labels and of annotations.
    pub(super) async fn update(
        &self,
        mut request: api::UpdateContainerRequest,
        labels: &[TagChange],
        annotations: &[TagChange],
    ) -> Result<Operation, Fault> {
        if labels.is_empty() && annotations.is_empty() {
            return self.update_once(&request).await;
        }
        let paths = &mut request.update_mask.get_or_insert_default().paths;
        for (changes, path) in [(labels, "labels"), (annotations, "annotations")] {
            if !changes.is_empty() {
                paths.push(path.to_owned());
            }
        }
        let mut attempt = 1;
        loop {
            let container = request.container.get_or_insert_default();
            let Container { labels: old, annotations: old_annotations, etag, .. } =
                self.container(container.name.clone()).await?;
            container.labels = changed(old, labels);
            container.annotations = changed(old_annotations, annotations);
            container.etag = etag;
            match self.update_once(&request).await {
                Err(fault) if fault.reason == Reason::EtagMismatch && attempt < ATTEMPTS => {
                    // It is another request now.
                    request.request_id = request_id();
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn update_once(&self, request: &api::UpdateContainerRequest) -> Result<Operation, Fault> {
        let update = || {
            let mut client = self.coordinator.containers();
            let request = request.clone();
            async move { client.update_container(request).await }
        };
        self.coordinator.call(update).await
    }

    /// A container as it is.
    pub(super) async fn container(&self, name: String) -> Result<Container, Fault> {
        let get = || {
            let mut client = self.coordinator.containers();
            let request = api::GetContainerRequest { name: name.clone() };
            async move { client.get_container(request).await }
        };
        self.coordinator.call(get).await
    }
}
