//! EC2: region, endpoint and signature of its query interface.

use crate::cloud::aws::region_of;
use crate::cloud::aws_profile::AwsProfile;
use crate::cloud::fit::check_region;
use crate::cloud::{AwsIdentity, CloudError, Environment, PlainHttp, Sign, check_signed_endpoint};
use async_trait::async_trait;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::HttpRequest;
use std::path::PathBuf;
use url::Url;

/// Where EC2 is and who we are to it.
#[derive(Debug)]
pub struct Ec2Settings {
    pub region: String,
    pub endpoint: Url,
    pub ca_bundle: Option<PathBuf>,
    pub identity: AwsIdentity,
}

/// Signature version 4 of EC2 requests.
#[derive(Debug)]
pub struct Ec2Signer {
    credentials: AwsCredentialProvider,
    region: String,
}

impl Ec2Settings {
    /// `profile` and `region` are those of the command line. Unlike S3, EC2 does not tell where
    /// an instance is: without a region there is nothing to ask.
    pub fn resolve(
        environment: &Environment,
        profile: Option<&str>,
        region: Option<&str>,
        plain: PlainHttp,
    ) -> Result<Self, CloudError> {
        let profile_name =
            profile.or_else(|| environment.first(&["AWS_DEFAULT_PROFILE", "AWS_PROFILE"]));
        let settings = AwsProfile::read(environment, profile_name)?;
        let region = match region {
            Some(region) => {
                check_region("option --aws-region", region)?;
                Some(region)
            }
            None => region_of(environment, &settings)?,
        };
        let region = region
            .ok_or_else(|| {
                CloudError::new("no AWS region was given")
                    .hint("Name the region of the instance with --aws-region.")
            })?
            .to_string();
        let configured = match environment.switch("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
            true => None,
            false => environment
                .first(&["AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"])
                .or_else(|| settings.get("endpoint_url")),
        };
        let endpoint = match configured {
            Some(text) => check_signed_endpoint(text)?,
            None => aws_endpoint(environment, &region)?,
        };
        let ca_bundle = environment
            .get("AWS_CA_BUNDLE")
            .or_else(|| settings.get("ca_bundle"))
            .or_else(|| environment.get("REQUESTS_CA_BUNDLE"))
            .map(PathBuf::from);
        let identity =
            AwsIdentity::resolve(environment, profile, profile_name, &settings, &region)?;
        let identity = identity.fit_for(environment, &endpoint, plain)?;
        Ok(Self { region, endpoint, ca_bundle, identity })
    }

    pub fn signer(&self) -> Ec2Signer {
        Ec2Signer { credentials: self.identity.provider(), region: self.region.clone() }
    }
}

/// Source: AWS General Reference, "Amazon EC2 endpoints and quotas"; the domains of partitions
/// are those of botocore's partitions.json.
fn aws_endpoint(environment: &Environment, region: &str) -> Result<Url, CloudError> {
    const PARTITIONS: &[(&str, &str)] = &[
        ("cn-", "amazonaws.com.cn"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("us-isof-", "csp.hci.ic.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
        ("eusc-", "amazonaws.eu"),
    ];
    let found = PARTITIONS.iter().find(|(prefix, _)| region.starts_with(prefix));
    let domain = found.map_or("amazonaws.com", |(_, domain)| domain);
    let service = match environment.switch("AWS_USE_FIPS_ENDPOINT") {
        true => "ec2-fips",
        false => "ec2",
    };
    let host = match environment.switch("AWS_USE_DUALSTACK_ENDPOINT") {
        true if domain == "amazonaws.com.cn" => {
            format!("{service}.{region}.api.amazonwebservices.com.cn")
        }
        true if domain == "amazonaws.com" => format!("{service}.{region}.api.aws"),
        _ => format!("{service}.{region}.{domain}"),
    };
    Url::parse(&format!("https://{host}/"))
        .map_err(|_| CloudError::new(format!("\"{region}\" cannot be an AWS region")))
}

#[async_trait]
impl Sign for Ec2Signer {
    async fn sign(&self, request: &mut HttpRequest) -> Result<(), CloudError> {
        let credential = self.credentials.get_credential().await.map_err(|error| {
            CloudError::new(format!("no AWS credentials: {}", innermost(&error)))
        })?;
        AwsAuthorizer::new(&credential, "ec2", &self.region)
            .try_authorize(request, None)
            .map_err(|error| CloudError::new(format!("could not sign: {}", innermost(&error))))
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

#[cfg(test)]
mod tests {
    use crate::cloud::{Ec2Settings, Environment, PlainHttp};

    fn resolve(variables: &[(&str, &str)], region: Option<&str>) -> Ec2Settings {
        let environment = Environment::of(variables.iter().copied());
        Ec2Settings::resolve(&environment, None, region, PlainHttp::IfSigned).expect("settings")
    }

    #[test]
    fn the_region_is_the_option_before_the_environment_and_must_be_known() {
        let variables = [("AWS_DEFAULT_REGION", "eu-west-1"), ("AWS_REGION", "us-west-2")];
        assert_eq!(resolve(&variables, Some("eu-west-3")).region, "eu-west-3");
        assert_eq!(resolve(&variables, None).region, "eu-west-1");
        assert_eq!(resolve(&variables[1..], None).region, "us-west-2");
        let nowhere = Ec2Settings::resolve(
            &Environment::of([("HOME", "/nowhere")]),
            None,
            None,
            PlainHttp::IfSigned,
        );
        assert!(nowhere.expect_err("no region").hint.expect("hint").contains("--aws-region"));
    }

    #[test]
    fn the_endpoint_is_that_of_the_partition_unless_one_is_configured() {
        let url = |variables: &[_], region| resolve(variables, Some(region)).endpoint.to_string();
        assert_eq!(url(&[], "eu-west-1"), "https://ec2.eu-west-1.amazonaws.com/");
        assert_eq!(url(&[], "cn-north-1"), "https://ec2.cn-north-1.amazonaws.com.cn/");
        assert_eq!(url(&[], "us-gov-west-1"), "https://ec2.us-gov-west-1.amazonaws.com/");
        assert_eq!(url(&[], "us-iso-east-1"), "https://ec2.us-iso-east-1.c2s.ic.gov/");
        let switches = [("AWS_USE_FIPS_ENDPOINT", "true"), ("AWS_USE_DUALSTACK_ENDPOINT", "true")];
        assert_eq!(url(&switches, "us-east-1"), "https://ec2-fips.us-east-1.api.aws/");
        let configured = [
            ("AWS_ENDPOINT_URL", "https://all.example"),
            ("AWS_ENDPOINT_URL_EC2", "https://ec2.example"),
            ("AWS_ENDPOINT_URL_S3", "https://s3.example"),
        ];
        assert_eq!(url(&configured, "x"), "https://ec2.example/");
        assert_eq!(url(&configured[..1], "x"), "https://all.example/");
    }
}
