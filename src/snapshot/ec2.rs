//! EC2's query interface: an action and flat parameters in, XML out.
//! Source: "Amazon EC2 API Reference", version 2016-11-15.

use crate::cloud::{ApiClient, ApiError, ApiRequest, Repeat};
use crate::snapshot::xml::Element;
use http::Method;
use url::Url;
use url::form_urlencoded::Serializer;

const VERSION: &str = "2016-11-15";

/// Pages followed at most: 500 descriptions each.
const PAGES_MAX: usize = 200;

/// The service in one region.
#[derive(Clone, Debug)]
pub struct Ec2 {
    client: ApiClient,
    endpoint: Url,
}

/// The parameters of one action.
#[derive(Clone, Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    filters: usize,
}

impl Params {
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.pairs.push((name.into(), value.into()));
        self
    }

    /// `<name>.1=…&<name>.2=…`
    pub fn list<'a>(mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        for (number, value) in (1..).zip(values) {
            self = self.with(format!("{name}.{number}"), value);
        }
        self
    }

    pub fn filter<'a>(mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.filters += 1;
        let prefix = format!("Filter.{}", self.filters);
        self.with(format!("{prefix}.Name"), name).list(&format!("{prefix}.Value"), values)
    }

    fn form(&self, action: &str) -> String {
        let mut form = Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", VERSION);
        form.extend_pairs(&self.pairs);
        form.finish()
    }

    /// Tags of what is created.
    pub fn tags(mut self, kind: &str, tags: &[(String, String)]) -> Self {
        self = self.with("TagSpecification.1.ResourceType", kind);
        self.tag_list("TagSpecification.1.Tag", tags)
    }

    pub fn tag_list(mut self, name: &str, tags: &[(String, String)]) -> Self {
        for (number, (key, value)) in (1..).zip(tags) {
            self = self
                .with(format!("{name}.{number}.Key"), key)
                .with(format!("{name}.{number}.Value"), value);
        }
        self
    }
}

impl Ec2 {
    pub fn new(client: ApiClient, endpoint: Url) -> Self {
        Self { client, endpoint }
    }

    /// Calls an action; the answer's root element.
    pub async fn call(
        &self,
        action: &str,
        params: &Params,
        repeat: Repeat,
    ) -> Result<Element, ApiError> {
        let request = ApiRequest {
            method: Method::POST,
            url: self.endpoint.clone(),
            content_type: Some("application/x-www-form-urlencoded; charset=utf-8"),
            body: params.form(action).into(),
            repeat,
        };
        let answer = self.client.call(&request).await.map_err(|error| hinted(action, error))?;
        let text = String::from_utf8_lossy(&answer.body);
        Element::parse(&text).map_err(|reason| ApiError {
            status: Some(answer.status.as_u16()),
            code: None,
            reason: format!("the answer cannot be understood: {reason}"),
            may_have_happened: true,
            passing: true,
            hint: None,
        })
    }

    /// Calls a describing action and follows its pages; all items of `set`.
    pub async fn describe(
        &self,
        action: &str,
        params: Params,
        set: &str,
    ) -> Result<Vec<Element>, ApiError> {
        let mut items = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = match &token {
                Some(token) => params.clone().with("NextToken", token),
                None => params.clone(),
            };
            let answer = self.call(action, &page, Repeat::Freely).await?;
            items.extend(answer.items(set).cloned());
            token = answer.text("nextToken").map(Into::into);
            if token.is_none() {
                return Ok(items);
            }
        }
        Err(ApiError {
            status: None,
            code: None,
            reason: format!("the answer has more than {PAGES_MAX} pages"),
            may_have_happened: false,
            passing: false,
            hint: None,
        })
    }
}

/// The permission that is missing is the action's name.
fn hinted(action: &str, error: ApiError) -> ApiError {
    match error.is_denied() {
        true => {
            let hint = format!("Allow ec2:{action} for this identity in this region.");
            ApiError { hint: Some(hint), ..error }
        }
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::ec2::Params;

    #[test]
    fn parameters_are_numbered_as_ec2_wants_them() {
        let tags = [("Name".to_string(), "a".to_string())];
        let params = Params::default()
            .filter("tag:Name", ["x"])
            .filter("state", ["a", "b"])
            .list("Id", ["1"])
            .tags("snapshot", &tags);
        let text: Vec<String> =
            params.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "Filter.1.Name=tag:Name",
                "Filter.1.Value.1=x",
                "Filter.2.Name=state",
                "Filter.2.Value.1=a",
                "Filter.2.Value.2=b",
                "Id.1=1",
                "TagSpecification.1.ResourceType=snapshot",
                "TagSpecification.1.Tag.1.Key=Name",
                "TagSpecification.1.Tag.1.Value=a",
            ]
        );
    }
}
