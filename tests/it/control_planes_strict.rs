//! The stand-ins for the clouds refuse what the clouds' documents say that they refuse: a test
//! that passes against them proves nothing otherwise.

use crate::control_planes::azure::{AzureFake, LOCATION, resource_id};
use crate::control_planes::google::{GoogleFake, PROJECT, zone_path};
use crate::support::http::request;
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Status and code of an answer of Azure.
fn azure(fake: &AzureFake, method: &str, target: &str, token: &str, body: &str) -> (u16, String) {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), JSON];
    let (status, body) = request(method, &fake.endpoint(), target, &headers, body);
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_string())
}

fn azure_token(fake: &AzureFake, resource: &str) -> String {
    let target =
        format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
    let (status, body) = request("GET", &fake.endpoint(), &target, &[("Metadata", "true")], "");
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    body["access_token"].as_str().expect("a token").to_string()
}

#[test]
fn the_azure_stand_in_refuses_versions_tokens_and_bodies_that_azure_refuses() {
    let fake = AzureFake::start().expect("the fake starts");
    fake.add_disk("data");
    let token = azure_token(&fake, "https://management.azure.com");
    let target = resource_id("snapshots", "s");
    let good = format!("{target}?api-version=2024-03-02");
    let body = |properties: Value| json!({"location": LOCATION, "properties": properties});
    let source = resource_id("disks", "data");
    let data = json!({"createOption": "Copy", "sourceResourceId": source});
    let right = body(json!({"incremental": true, "creationData": data})).to_string();
    let flat = json!({"location": LOCATION, "incremental": true, "properties": {}}).to_string();
    let bare = json!({"properties": {"creationData": data}}).to_string();
    let nothing = body(json!({})).to_string();
    let elsewhere = body(json!({"creationData": {"createOption": "Copy",
        "sourceResourceId": resource_id("disks", "none")}}))
    .to_string();
    let old = format!("{target}?api-version=1999-01-01");
    let storage = azure_token(&fake, "https://storage.azure.com");
    for (target, token, body, expected) in [
        (&target, &token, &right, (400, "MissingApiVersionParameter")),
        (&old, &token, &right, (400, "NoRegisteredProviderFound")),
        (&good, &"made up".to_string(), &right, (401, "InvalidAuthenticationToken")),
        (&good, &storage, &right, (401, "InvalidAuthenticationTokenAudience")),
        (&good, &token, &flat, (400, "InvalidRequestContent")),
        (&good, &token, &bare, (400, "LocationRequired")),
        (&good, &token, &nothing, (400, "InvalidParameter")),
        (&good, &token, &elsewhere, (404, "NotFound")),
    ] {
        let (status, code) = azure(&fake, "PUT", target, token, body);
        assert_eq!((status, code.as_str()), expected, "{target} {body}");
    }
    assert!(fake.snapshots().is_empty());
    assert_eq!(azure(&fake, "PUT", &good, &token, &right).0, 202);
    // While it is under way nothing else may change it.
    let busy = (409, "AnotherOperationInProgress".to_string());
    assert_eq!(azure(&fake, "DELETE", &good, &token, ""), busy);
    assert_eq!(azure(&fake, "POST", &good, &token, "").0, 405);
}

/// Status and reason of an answer of Google.
fn google(fake: &GoogleFake, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), JSON];
    let endpoint = format!("http://{}", fake.metadata_host());
    let (status, body) = request(method, &endpoint, &format!("/compute/v1/{path}"), &headers, body);
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    (status, body["error"]["errors"][0]["reason"].as_str().unwrap_or_default().to_string())
}

#[test]
fn the_google_stand_in_refuses_names_ids_tokens_and_bodies_that_google_refuses() {
    let fake = GoogleFake::start().expect("the fake starts");
    fake.add_disk("data");
    let token = fake.token();
    let snapshots = format!("projects/{PROJECT}/global/snapshots");
    let source = format!("{}/disks/data", zone_path());
    let right = json!({"name": "s", "sourceDisk": source}).to_string();
    let named = |name: &str| json!({"name": name, "sourceDisk": source}).to_string();
    let unknown = json!({"name": "s", "sourceDisk": source, "source_disk": source}).to_string();
    let absent = json!({"name": "s", "sourceDisk": format!("{source}-none")}).to_string();
    let zero = format!("{snapshots}?requestId=00000000-0000-0000-0000-000000000000");
    let other = "projects/other/global/snapshots".to_string();
    for (path, token, body, expected) in [
        (&snapshots, "made up", &right, (401, "authError")),
        (&snapshots, &token, &unknown, (400, "badRequest")),
        (&snapshots, &token, &"{}".to_string(), (400, "required")),
        (&snapshots, &token, &named("Upper"), (400, "invalid")),
        (&snapshots, &token, &named(&"s".repeat(64)), (400, "invalid")),
        (&snapshots, &token, &absent, (404, "notFound")),
        (&zero, &token, &right, (400, "invalid")),
        (&other, &token, &right, (404, "notFound")),
    ] {
        let (status, reason) = google(&fake, "POST", path, token, body);
        assert_eq!((status, reason.as_str()), expected, "{path} {body}");
    }
    assert!(fake.snapshots().is_empty());
    let id = format!("{snapshots}?requestId=7d4cbbd8-6b2e-4c5b-9d3c-3f1f6a1e8a11");
    // The same request again is the same operation; another one meets what is there.
    assert_eq!(google(&fake, "POST", &id, &token, &right).0, 200);
    assert_eq!(google(&fake, "POST", &id, &token, &right).0, 200);
    assert_eq!(google(&fake, "POST", &snapshots, &token, &right), (409, "alreadyExists".into()));
    let snapshot = format!("{snapshots}/s");
    assert_eq!(google(&fake, "DELETE", &snapshot, &token, ""), (400, "resourceNotReady".into()));
}
