//! `AccessService`: tokens.

use std::collections::BTreeSet;

use tonic::{Request, Response, Status};
use ves_proto::api as pb;
use ves_proto::api::access_service_server::AccessService;
use ves_proto::public::{parse_name, timestamp, unix_ms};
use ves_proto::{Fault, Reason};
use ves_types::grant::MOST_PROJECTS;
use ves_types::{Grant, GrantRole};

use super::Api;
use super::page::Page;
use crate::token::record::{NewToken, TokenRecord};
use crate::wrong::{Wrong, bad, known};

/// A page where no size is asked for, and the greatest.
const PAGES: (usize, usize) = (100, 1000);

fn role(role: pb::AccessRole) -> Option<GrantRole> {
    match role {
        pb::AccessRole::Unspecified => None,
        pb::AccessRole::Admin => Some(GrantRole::Admin),
        pb::AccessRole::Operator => Some(GrantRole::Operator),
        pb::AccessRole::Tenant => Some(GrantRole::Tenant),
        pb::AccessRole::ReadOnly => Some(GrantRole::ReadOnly),
        pb::AccessRole::Node => Some(GrantRole::Node),
    }
}

fn render_role(role: GrantRole) -> pb::AccessRole {
    match role {
        GrantRole::Admin => pb::AccessRole::Admin,
        GrantRole::Operator => pb::AccessRole::Operator,
        GrantRole::Tenant => pb::AccessRole::Tenant,
        GrantRole::ReadOnly => pb::AccessRole::ReadOnly,
        GrantRole::Node => pb::AccessRole::Node,
    }
}

/// Reads which token is to be made.
fn parse(token: pb::Token, now_ms: i64) -> Result<NewToken, Fault> {
    let pb::Token {
        name,
        holder,
        role: asked,
        projects,
        create_time: _,
        expire_time,
        last_use_time: _,
    } = token;
    let mut wrong = Wrong::default();
    if !name.is_empty() {
        wrong.push(bad("token.name", "a token's name is given to it; leave it out"));
    }
    let holder = wrong.at("token.holder", holder.parse());
    let asked = wrong.take(known::<pb::AccessRole>("token.role", asked));
    let role =
        asked.and_then(|asked| wrong.take(role(asked).ok_or_else(|| Fault::missing("token.role"))));
    if projects.len() > MOST_PROJECTS {
        wrong.push(bad("token.projects", "a token can have 64 projects at most"));
    }
    let mut own = BTreeSet::new();
    for (n, project) in projects.iter().take(MOST_PROJECTS).enumerate() {
        let field = format!("token.projects[{n}]");
        let word = wrong.take(parse_name(&field, "projects", project));
        own.extend(word.and_then(|word| wrong.at(&field, word.parse())));
    }
    let grant = role.and_then(|role| wrong.at("token.role", Grant::new(role, own)));
    let expires_ms = expire_time.map(|time| unix_ms(&time));
    if expires_ms.is_some_and(|end| end <= now_ms) {
        wrong.push(bad("token.expire_time", "the token would have expired before it is made"));
    }
    wrong.end()?;
    match (holder, grant) {
        (Some(holder), Some(grant)) => Ok(NewToken { holder, grant, expires_ms }),
        _ => Err(Fault::new(Reason::Bug, "something is wrong with the token")),
    }
}

fn render(token: TokenRecord) -> pb::Token {
    let TokenRecord { id, digest: _, holder, grant, created_ms, expires_ms, used_ms } = token;
    pb::Token {
        name: format!("tokens/{id}"),
        holder: holder.to_string(),
        role: render_role(grant.role()).into(),
        projects: grant.projects().iter().map(|project| format!("projects/{project}")).collect(),
        create_time: Some(timestamp(created_ms)),
        expire_time: expires_ms.map(timestamp),
        last_use_time: used_ms.map(timestamp),
    }
}

#[tonic::async_trait]
impl AccessService for Api {
    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let by = ves_daemon::principal(&request);
        let token = request.into_inner().token.ok_or_else(|| Fault::missing("token"))?;
        let token = parse(token, self.0.clock().now_ms())?;
        let (token, secret) = self.0.create_token(token, &by).await?;
        tracing::info!(
            target: "audit",
            token = token.id,
            holder = %token.holder,
            role = %token.grant.role(),
            "a token was made"
        );
        Ok(Response::new(pb::CreateTokenResponse { token: Some(render(token)), secret }))
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let pb::ListTokensRequest { page_size, page_token } = request.into_inner();
        let mut wrong = Wrong::default();
        let page = Page::read(page_size, &page_token, PAGES, &["tokens"], &mut wrong);
        wrong.end()?;
        let Some(page) = page else { return Err(Fault::missing("page_size").into()) };
        let mut tokens = self.0.tokens().page(page.after.as_deref(), page.size + 1);
        let more = tokens.len() > page.size;
        tokens.truncate(page.size);
        let next_page_token = match tokens.last() {
            Some(last) if more => page.token(&last.id),
            _ => String::new(),
        };
        let tokens = tokens.into_iter().map(render).collect();
        Ok(Response::new(pb::ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let id = parse_name("name", "tokens", &request.get_ref().name)?.to_owned();
        let token = self.0.revoke_token(id, &ves_daemon::principal(&request)).await?;
        tracing::info!(target: "audit", token = token.id, holder = %token.holder, "a token was revoked");
        Ok(Response::new(pb::RevokeTokenResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> pb::Token {
        pb::Token {
            holder: "panel".to_owned(),
            role: pb::AccessRole::Tenant.into(),
            projects: vec!["projects/acme".to_owned()],
            expire_time: Some(timestamp(2000)),
            ..pb::Token::default()
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_token_is_told_at_once() {
        assert_eq!(parse(tenant(), 1999).map(|token| token.expires_ms), Ok(Some(2000)));
        let bad = pb::Token {
            name: "tokens/x".to_owned(),
            holder: "a b".to_owned(),
            role: 99,
            projects: vec!["acme".to_owned(), "projects/A".to_owned()],
            ..tenant()
        };
        let fault = parse(bad, 2000).expect_err("much is wrong");
        let fields: Vec<_> = fault.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "token.name",
                "token.holder",
                "token.role",
                "token.projects[0]",
                "token.projects[1]",
                "token.expire_time",
            ]
        );
        let of = |role: pb::AccessRole, projects: &[&str]| {
            let projects = projects.iter().map(|p| (*p).to_owned()).collect();
            parse(pb::Token { role: role.into(), projects, ..tenant() }, 0)
        };
        assert!(of(pb::AccessRole::Tenant, &[]).is_err());
        assert!(of(pb::AccessRole::Admin, &["projects/acme"]).is_err());
        assert!(of(pb::AccessRole::Unspecified, &[]).is_err());
        assert!(of(pb::AccessRole::ReadOnly, &["projects/acme"]).is_ok());
        let many: Vec<_> = (0..100).map(|n| format!("projects/p{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(of(pb::AccessRole::Tenant, &many).is_err());
    }

    #[test]
    fn a_token_is_shown_without_its_digest() {
        let NewToken { holder, grant, expires_ms } = parse(tenant(), 0).expect("nothing is wrong");
        let digest = crate::token::record::Digest("d".repeat(64));
        let record = TokenRecord {
            id: "x".to_owned(),
            digest,
            holder,
            grant,
            created_ms: 1000,
            expires_ms,
            used_ms: None,
        };
        let shown = render(record);
        assert!(!format!("{shown:?}").contains("ddd"));
        let name = "tokens/x".to_owned();
        let create_time = Some(timestamp(1000));
        assert_eq!(shown, pb::Token { name, create_time, ..tenant() });
    }
}
