//! `operation`: long work, what is being done and what was.
//!
//! Never here: following one, which [`crate::operation`] does.

use ves_proto::api;

use super::Context;
use crate::cli::OperationVerb;
use crate::failure::Outcome;
use crate::names;
use crate::operation;
use crate::output::Format;
use crate::pages;

/// Operations in one page; the API's greatest.
const PAGE: i32 = 1000;

impl Context {
    pub(super) async fn operation(self, verb: OperationVerb) -> Outcome {
        let Self { coordinator, output, fields } = self;
        let get = async |id: &str| {
            coordinator
                .call(|| {
                    let mut client = coordinator.operations();
                    let request = api::GetOperationRequest { name: names::operation(id) };
                    async move { client.get_operation(request).await }
                })
                .await
        };
        match verb {
            OperationVerb::List(list) => {
                let page = |page_token| {
                    let mut client = coordinator.operations();
                    let (page_size, filter) = (PAGE, String::new());
                    let request = api::ListOperationsRequest { page_size, page_token, filter };
                    async move { client.list_operations(request).await }
                };
                let operations = pages::all(&coordinator, page).await?;
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
                output.value(&match output.format {
                    Format::Table => operation::render_short(&operation),
                    _ => operation::render(&operation),
                })
            }
            OperationVerb::Wait { id } => {
                let first = get(&id).await?;
                let done = |o: &api::Operation| {
                    format!("operation {id} ({}) done", operation::kind_name(o.kind()))
                };
                operation::wait(&coordinator, output, first, false, done).await
            }
            OperationVerb::Cancel { id } => {
                let operation = coordinator
                    .call(|| {
                        let mut client = coordinator.operations();
                        let request = api::CancelOperationRequest { name: names::operation(&id) };
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
