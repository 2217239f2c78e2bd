//! Azure Resource Manager: endpoint and identity, in the public cloud and in others.

use crate::cloud::{
    AzureCredentialKind, AzureTokens, CloudError, Environment, PlainHttp, Transport, check_endpoint,
};
use std::path::PathBuf;
use url::Url;

/// Where the management interface is and whose tokens it takes.
#[derive(Debug)]
pub struct ResourceManagerSettings {
    pub endpoint: Url,
    pub ca_bundle: Option<PathBuf>,
    /// Without a slash at its end.
    pub audience: String,
    authority: Url,
}

/// One Azure: who signs in, where resources are managed, and whom tokens are for.
struct Region {
    authority: &'static str,
    endpoint: &'static str,
    audience: &'static str,
}

/// Source: package `azcore/cloud` of the Azure SDK for Go and "Authentication in national
/// clouds".
const REGIONS: [Region; 3] = [
    Region {
        authority: "https://login.microsoftonline.com/",
        endpoint: "https://management.azure.com/",
        audience: "https://management.azure.com",
    },
    Region {
        authority: "https://login.chinacloudapi.cn/",
        endpoint: "https://management.chinacloudapi.cn/",
        audience: "https://management.core.chinacloudapi.cn",
    },
    Region {
        authority: "https://login.microsoftonline.us/",
        endpoint: "https://management.usgovcloudapi.net/",
        audience: "https://management.core.usgovcloudapi.net",
    },
];

impl ResourceManagerSettings {
    /// `AZURE_RESOURCE_MANAGER_ENDPOINT` and `AZURE_AUTHORITY_HOST` choose a national cloud;
    /// each of the two is enough, as the other follows.
    pub fn resolve(environment: &Environment, plain: PlainHttp) -> Result<Self, CloudError> {
        let given = |name: &str| {
            environment.get(name).map(|text| check_endpoint(&with_scheme(text), plain)).transpose()
        };
        let endpoint = given("AZURE_RESOURCE_MANAGER_ENDPOINT")?;
        let authority = given("AZURE_AUTHORITY_HOST")?;
        let region = REGIONS
            .iter()
            .find(|region| {
                same_host(endpoint.as_ref(), region.endpoint)
                    || endpoint.is_none() && same_host(authority.as_ref(), region.authority)
            })
            .unwrap_or(&REGIONS[0]);
        let url = |text: &str| check_endpoint(text, plain);
        Ok(Self {
            endpoint: endpoint.map_or_else(|| url(region.endpoint), Ok)?,
            authority: authority.map_or_else(|| url(region.authority), Ok)?,
            audience: region.audience.to_string(),
            ca_bundle: environment
                .first(&["REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
                .map(PathBuf::from),
        })
    }

    /// Tokens for the interface; none is asked for yet.
    pub fn tokens(
        &self,
        environment: &Environment,
        kind: Option<AzureCredentialKind>,
        transport: &Transport,
    ) -> AzureTokens {
        AzureTokens::new(environment, kind, &self.audience, &self.authority, transport)
    }
}

/// azure-identity takes the authority without a scheme as well.
fn with_scheme(text: &str) -> String {
    if text.contains("://") { text.into() } else { format!("https://{text}") }
}

fn same_host(url: Option<&Url>, known: &str) -> bool {
    url.zip(Url::parse(known).ok()).is_some_and(|(url, known)| url.host() == known.host())
}

#[cfg(test)]
mod tests {
    use crate::cloud::{Environment, PlainHttp, ResourceManagerSettings};

    fn resolve(variables: &[(&str, &str)]) -> ResourceManagerSettings {
        let environment = Environment::of(variables.iter().copied());
        ResourceManagerSettings::resolve(&environment, PlainHttp::IfSigned).expect("settings")
    }

    #[test]
    fn endpoint_or_authority_alone_choose_a_national_cloud() {
        let government = "https://management.usgovcloudapi.net/";
        for variables in [
            [("AZURE_RESOURCE_MANAGER_ENDPOINT", "https://management.usgovcloudapi.net")],
            [("AZURE_AUTHORITY_HOST", "login.microsoftonline.us")],
        ] {
            let settings = resolve(&variables);
            assert_eq!(settings.endpoint.as_str(), government);
            assert_eq!(settings.authority.as_str(), "https://login.microsoftonline.us/");
            assert_eq!(settings.audience, "https://management.core.usgovcloudapi.net");
        }
        let settings = resolve(&[]);
        assert_eq!(settings.endpoint.as_str(), "https://management.azure.com/");
        assert_eq!(settings.audience, "https://management.azure.com");
    }

    #[test]
    fn an_endpoint_of_ones_own_is_that_of_the_public_cloud_elsewhere() {
        let settings = resolve(&[("AZURE_RESOURCE_MANAGER_ENDPOINT", "http://127.0.0.1:9999")]);
        assert_eq!(settings.endpoint.as_str(), "http://127.0.0.1:9999/");
        assert_eq!(settings.audience, "https://management.azure.com");
        let environment =
            Environment::of([("AZURE_RESOURCE_MANAGER_ENDPOINT", "http://elsewhere")]);
        assert!(ResourceManagerSettings::resolve(&environment, PlainHttp::IfSigned).is_err());
    }
}
