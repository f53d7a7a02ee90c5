//! Tokens: made, listed without their secrets, and revoked, over a restart of the coordinator too.

use ves_proto::api as pb;
use ves_proto::api::access_service_client::AccessServiceClient;
use ves_proto::{Fault, Reason};
use ves_sim::Sim;
use ves_types::layout::Daemon;

fn made(sim: &Sim, token: pb::Token) -> Result<pb::CreateTokenResponse, Fault> {
    sim.block(async {
        let mut client = AccessServiceClient::new(sim.channel());
        let request = pb::CreateTokenRequest { token: Some(token) };
        client.create_token(request).await.map(tonic::Response::into_inner).map_err(Fault::from)
    })
}

fn listed(sim: &Sim) -> Vec<pb::Token> {
    sim.block(async {
        let mut client = AccessServiceClient::new(sim.channel());
        let answer = client.list_tokens(pb::ListTokensRequest::default()).await;
        answer.expect("listed").into_inner().tokens
    })
}

fn revoked(sim: &Sim, name: &str) -> Result<(), Fault> {
    sim.block(async {
        let mut client = AccessServiceClient::new(sim.channel());
        let request = pb::RevokeTokenRequest { name: name.to_owned() };
        client.revoke_token(request).await.map(drop).map_err(Fault::from)
    })
}

#[test]
fn a_token_is_kept_without_its_secret_until_it_is_revoked() {
    let sim = Sim::new();
    let panel = pb::Token {
        holder: "panel".to_owned(),
        role: pb::AccessRole::Tenant.into(),
        projects: vec!["projects/acme".to_owned()],
        ..Default::default()
    };
    let pb::CreateTokenResponse { token, secret } = made(&sim, panel.clone()).expect("made");
    let token = token.expect("it is told");
    assert!(secret.len() >= 32 && !format!("{token:?}").contains(&secret), "told once");
    let twice = made(&sim, panel.clone()).expect_err("the name is taken");
    assert_eq!(twice.reason, Reason::NameTaken, "{twice}");

    let nobody = pb::Token { projects: vec![], ..panel.clone() };
    let fault = made(&sim, nobody).expect_err("a tenant has a project");
    assert!(fault.facts["field"] == "token.role", "{fault:?}");
    let wrong = pb::Token { holder: "a b".to_owned(), role: 99, ..panel };
    let fault = made(&sim, wrong).expect_err("two fields are wrong");
    let fields: Vec<_> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["token.holder", "token.role"]);

    sim.restart(Daemon::Coordinator);
    assert_eq!(listed(&sim), std::slice::from_ref(&token));
    let stored = format!("{:?}", sim.store());
    assert!(!stored.contains(&secret), "at rest there is its hash");
    revoked(&sim, &token.name).expect("revoked");
    assert_eq!(listed(&sim), []);
    let fault = revoked(&sim, &token.name).expect_err("it is gone");
    assert_eq!(fault.reason, Reason::TokenUnknown);
}
