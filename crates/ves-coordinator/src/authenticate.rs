//! The coordinator's part in knowing who calls by a token: makes it, revokes it, and says whose it is.
//!
//! Never here: how tokens are kept ([`crate::token`]), or what their holders may ([`crate::access`]).

use ves_daemon::{Principal, Tokens};
use ves_proto::Fault;
use ves_proto::public::node_name;

use crate::coordinator::Coordinator;
use crate::event::record::{NewEvent, Type};
use crate::operation::public::asker;
use crate::token::record::{NewToken, TokenRecord};
use crate::token::{digest, secret};

impl Coordinator {
    /// Makes a token, and answers with it and its secret, which nobody is told again.
    ///
    /// # Errors
    /// `NAME_TAKEN`, `TOO_MANY`, or the store's failure.
    pub async fn create_token(
        &self,
        token: NewToken,
        by: &Principal,
    ) -> Result<(TokenRecord, String), Fault> {
        let NewToken { holder, grant, expires_ms } = token;
        let secret = secret()?;
        let token = TokenRecord {
            id: self.clock().new_id().to_string(),
            digest: digest(&secret),
            holder,
            grant,
            created_ms: self.clock().now_ms(),
            expires_ms,
            used_ms: None,
        };
        let event = self
            .of_token("TOKEN_CREATED", &token.id, by)
            .fact("holder", &token.holder.to_string())
            .fact("role", &token.grant.role().to_string());
        let (own, stored) = (self.clone(), token.clone());
        ves_daemon::blocking(move || own.tokens().add(own.state(), stored, event)).await?;
        Ok((token, secret))
    }

    /// Makes a token count no more.
    ///
    /// # Errors
    /// `TOKEN_UNKNOWN`, or the store's failure.
    pub async fn revoke_token(&self, id: String, by: &Principal) -> Result<TokenRecord, Fault> {
        let event = self.of_token("TOKEN_REVOKED", &id, by);
        let own = self.clone();
        ves_daemon::blocking(move || own.tokens().remove(own.state(), &id, event)).await
    }

    fn of_token(&self, kind: &str, id: &str, by: &Principal) -> NewEvent {
        NewEvent::to(Type::Access, node_name(self.node()))
            .by(asker(&by.to_string(), None))
            .fact("kind", kind)
            .fact("id", id)
    }
}

impl Tokens for Coordinator {
    fn holder(&self, token: &str) -> Result<Principal, Fault> {
        let (principal, used) = self.tokens().holder(token, self.clock().now_ms())?;
        if let Some(used) = used {
            let own = self.clone();
            // Nobody waits for it; one that is lost is told of again by the next use.
            tokio::task::spawn_blocking(move || {
                if let Err(fault) = own.tokens().store_use(own.state(), &used) {
                    tracing::warn!(token = used.id, error = %fault, "its use is not stored");
                }
            });
        }
        Ok(principal)
    }

    fn counts(&self, id: &str) -> bool {
        self.tokens().counts(id, self.clock().now_ms())
    }
}
