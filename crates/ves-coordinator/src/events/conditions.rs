//! Publishing that a service is away, and that it is back.
//!
//! Never here: how a service is followed ([`crate::reconcile`]), or for how long it must be away
//! ([`crate::events::outbox`]).

use ves_proto::api as pb;
use ves_proto::api::condition::{Status, Type as Condition};
use ves_proto::public::node_name;

use crate::coordinator::Coordinator;
use crate::events::record::{NewEvent, Type, bare};
use crate::operation::public::own;
use crate::operation::record::Cause;

impl Coordinator {
    /// A service does not answer, or has ended what is followed.
    pub(crate) fn service_is_away(&self, service: &str) {
        if self.outbox().is_away(service, self.clock().instant()) {
            self.publish_condition(service, Status::False);
        }
    }

    /// A service answers.
    pub(crate) fn service_is_back(&self, service: &str) {
        if self.outbox().is_back(service) {
            self.publish_condition(service, Status::True);
        }
    }

    fn publish_condition(&self, service: &str, status: Status) {
        let Some(condition) = condition_of(service) else { return };
        let event = NewEvent::to(Type::NodeCondition, node_name(self.node()))
            .by(own(Cause::Node))
            .fact("condition", bare(condition.as_str_name(), "TYPE_"))
            .fact("status", bare(status.as_str_name(), "STATUS_"));
        self.publish(event);
    }
}

/// What the node's condition that a service answers is called.
fn condition_of(service: &str) -> Option<pb::condition::Type> {
    match service {
        "storage" => Some(Condition::StorageReady),
        "network" => Some(Condition::NetworkReady),
        "resources" => Some(Condition::ResourcesReady),
        "lifecycle" => Some(Condition::LifecycleReady),
        _ => None,
    }
}
