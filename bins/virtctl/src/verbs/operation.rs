//! `operation`: long work, what is being done and what was.
//!
//! Never here: following one, which [`crate::operation`] does.

use ves_proto::coordinator as api;

use super::Context;
use crate::cli::OperationVerb;
use crate::failure::Outcome;
use crate::operation;
use crate::output::Format;

impl Context {
    pub(super) async fn operation(self, verb: OperationVerb) -> Outcome {
        let Self { coordinator, output, fields } = self;
        let get = async |id: &str| {
            coordinator
                .call(|| {
                    let mut client = coordinator.operations();
                    let request = api::GetOperationRequest { id: id.to_owned() };
                    async move { client.get_operation(request).await }
                })
                .await
        };
        match verb {
            OperationVerb::List(list) => {
                let mut operations = Vec::new();
                let mut page_token = String::new();
                loop {
                    let page = coordinator
                        .call(|| {
                            let mut client = coordinator.operations();
                            let request = api::ListOperationsRequest {
                                page_size: 0,
                                page_token: page_token.clone(),
                            };
                            async move { client.list_operations(request).await }
                        })
                        .await?;
                    operations.extend(page.operations);
                    page_token = page.next_page_token;
                    if page_token.is_empty() {
                        break;
                    }
                }
                let default_columns = ["id", "kind", "ctid", "state", "started", "took", "problem"];
                output.list(
                    &operation::columns(),
                    &default_columns,
                    &list.selection(fields),
                    &operations,
                )
            }
            OperationVerb::Show { id } => {
                let operation = get(&id).await?;
                output.value(&operation::render(&operation))
            }
            OperationVerb::Wait { id } => {
                let first = get(&id).await?;
                let done = |o: &api::Operation| format!("operation {} ({}) done", o.id, o.kind);
                operation::wait(&coordinator, output, first, false, done).await
            }
            OperationVerb::Cancel { id } => {
                let operation = coordinator
                    .call(|| {
                        let mut client = coordinator.operations();
                        let request = api::CancelOperationRequest { id: id.clone() };
                        async move { client.cancel_operation(request).await }
                    })
                    .await?;
                if output.format != Format::Table {
                    return output.value(&operation::render(&operation));
                }
                if output.quiet {
                    return Ok(());
                }
                let state = operation::state_name(operation.state());
                output.print(&format!("operation {id} was asked to stop; it is {state} now\n"))
            }
        }
    }
}
