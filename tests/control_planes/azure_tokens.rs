//! Azure's token services: the instance metadata service and the identity platform.

use crate::control_planes::azure::{CLIENT, CLIENT_SECRET, State, TENANT};
use crate::gcs_fake::http::{Answer, Request, query};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// `None` when the path is none of a token service.
pub fn answer(state: &mut State, request: &Request) -> Option<Answer> {
    match request.path.as_str() {
        "/metadata/identity/oauth2/token" => Some(metadata(state, request)),
        path if path == format!("/{TENANT}/oauth2/v2.0/token") => Some(platform(state, request)),
        _ => None,
    }
}

/// Source: "How to use managed identities for Azure resources on an Azure VM to acquire an
/// access token", token request with HTTP. Numbers come as texts.
fn metadata(state: &mut State, request: &Request) -> Answer {
    if request.method != "GET" {
        return refused(405, "invalid_request", "Method not allowed");
    }
    if request.header("metadata") != Some("true") {
        return refused(400, "invalid_request", "Required metadata header not specified");
    }
    let known = ["2018-02-01", "2019-08-01", "2021-02-01"];
    if !request.parameter("api-version").is_some_and(|version| known.contains(&version)) {
        return refused(400, "invalid_request", "Required query variable 'api-version' is missing");
    }
    let Some(resource) = request.parameter("resource") else {
        return refused(400, "invalid_request", "Required query variable 'resource' is missing");
    };
    let lifetime = state.tokens.lifetime.as_secs();
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let body = json!({
        "access_token": state.tokens.issue(resource),
        "refresh_token": "",
        "expires_in": lifetime.to_string(),
        "expires_on": (epoch + lifetime).to_string(),
        "resource": resource,
        "token_type": "Bearer",
    });
    json_answer(200, &body)
}

/// Source: "Microsoft identity platform and the OAuth 2.0 client credentials flow".
fn platform(state: &mut State, request: &Request) -> Answer {
    if request.method != "POST"
        || request.header("content-type") != Some("application/x-www-form-urlencoded")
    {
        return refused(400, "invalid_request", "AADSTS900144: The request body is missing.");
    }
    let form = query(&String::from_utf8_lossy(&request.body));
    let field = |name: &str| form.get(name).map(String::as_str);
    if field("grant_type") != Some("client_credentials") {
        return refused(400, "unsupported_grant_type", "AADSTS70003: unsupported grant type.");
    }
    if field("client_id") != Some(CLIENT) {
        return refused(400, "unauthorized_client", "AADSTS700016: Application was not found.");
    }
    let asserted = field("client_assertion_type")
        == Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
        && field("client_assertion").is_some();
    if field("client_secret") != Some(CLIENT_SECRET) && !asserted {
        let text = "AADSTS7000215: Invalid client secret provided.";
        return refused(401, "invalid_client", text);
    }
    let Some(audience) = field("scope").and_then(|scope| scope.strip_suffix("/.default")) else {
        let text = "AADSTS1002012: The provided value for scope is not valid.";
        return refused(400, "invalid_scope", text);
    };
    let lifetime = state.tokens.lifetime.as_secs();
    let body = json!({
        "token_type": "Bearer",
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": state.tokens.issue(audience),
    });
    json_answer(200, &body)
}

fn refused(status: u16, code: &str, text: &str) -> Answer {
    json_answer(status, &json!({"error": code, "error_description": text}))
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::new(status).body("application/json; charset=utf-8", body.to_string())
}
