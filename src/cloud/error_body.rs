//! What the body of an error says: its code, its words, the region of the bucket.

use crate::cloud::Answer;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use object_store::client::{HttpError, HttpResponseBody};

/// Error bodies are short; what is longer is no error of a store.
const ERROR_BODY_MAX_BYTES: usize = 64 << 10;

/// What an error's body begins with; whoever sends more than that is not waited for.
pub(crate) async fn beginning_of(body: HttpResponseBody) -> Result<Vec<u8>, HttpError> {
    let mut pieces = body.bytes_stream();
    let mut text = Vec::new();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece?);
        if text.len() >= ERROR_BODY_MAX_BYTES {
            break;
        }
    }
    Ok(text)
}

/// Takes the error's code from `x-ms-error-code` (Azure tells it even on HEAD), or from the XML
/// or JSON of the body.
pub(crate) fn read_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    let body = &body[..body.len().min(ERROR_BODY_MAX_BYTES)];
    let text = String::from_utf8_lossy(body);
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
    let code = header("x-ms-error-code")
        .or_else(|| xml_element(&text, "Code"))
        .or_else(|| json_reason(&text));
    let message = xml_element(&text, "Message").or_else(|| json_message(&text));
    let region = header("x-amz-bucket-region").or_else(|| xml_element(&text, "Region"));
    Answer::Status { status: status.as_u16(), code, message, region }
}

/// The text of the first element of that name. Error bodies are flat; a parser would only add
/// ways to fail.
fn xml_element(text: &str, name: &str) -> Option<String> {
    let begin = text.find(&format!("<{name}>"))? + name.len() + 2;
    let length = text[begin..].find(&format!("</{name}>"))?;
    let found = text[begin..begin + length].trim();
    (!found.is_empty()).then(|| found.lines().next().unwrap_or(found).to_string())
}

/// Google's JSON: `{"error": {"message": …, "errors": [{"reason": …}]}}`; Azure's has a text
/// `code` in place of `errors`.
fn json_reason(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let error = &value["error"];
    let code = error["errors"][0]["reason"].as_str().or_else(|| error["code"].as_str())?;
    Some(code.to_string())
}

fn json_message(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(value["error"]["message"].as_str()?.lines().next()?.to_string())
}
