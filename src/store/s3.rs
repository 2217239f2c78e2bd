//! S3 and its dialects.

use crate::cloud::{
    AwsSettings, CloudError, Environment, KeptRegion, check_header_value, is_protected,
};
use crate::store::StoreOptions;
use crate::store::bucket::{Bucket, S3Bucket};
use crate::store::conditions::Known;
use crate::store::handle::StoreInner;
use crate::store::labels::Labels;
use crate::store::open::{batch_size, library_refused, plain_http, retries, transport};
use crate::store::options::{AddressingStyle, S3Encryption};
use crate::store::s3_region::FollowBucket;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use std::sync::Arc;
use url::Url;

/// DeleteObjects takes so many keys.
const DELETE_BATCH_MAX: usize = 1000;

pub fn open(
    bucket: &str,
    options: &StoreOptions,
    environment: &Environment,
) -> Result<StoreInner, CloudError> {
    let settings = AwsSettings::resolve(
        environment,
        options.aws_profile.as_deref(),
        options.endpoint_url.as_deref(),
        plain_http(options, environment),
    )?;
    let credentials = settings.identity.provider();
    let transport = transport(options, settings.ca_bundle.clone());
    let virtual_hosted = is_virtual(options.addressing_style, settings.custom_endpoint, bucket);
    let url = bucket_url(&settings.endpoint, bucket, virtual_hosted)?;
    let kept = KeptRegion::new(environment, url.as_str(), &settings.region);
    let follow = FollowBucket::new(&settings.region, kept, Arc::clone(&credentials));
    let transport = transport.with_rewrite(Arc::new(follow));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&settings.region)
        .with_endpoint(endpoint_for_library(&settings.endpoint, &url, virtual_hosted))
        .with_virtual_hosted_style_request(virtual_hosted)
        .with_credentials(Arc::clone(&credentials))
        .with_retry(retries(options))
        .with_http_connector(transport.clone())
        .with_allow_http(true);
    // As the SDKs do: where nobody on the way can change the body it is not hashed for the
    // signature, and a checksum tells the server what it must have received. Buckets with
    // object lock want one with each write.
    let protected = is_protected(&settings.endpoint);
    builder = builder.with_unsigned_payload(protected);
    let checksums = environment.get("AWS_REQUEST_CHECKSUM_CALCULATION");
    if !checksums.is_some_and(|value| value.eq_ignore_ascii_case("when_required")) {
        let checksum = if protected { Checksum::CRC64NVME } else { Checksum::SHA256 };
        builder = builder.with_checksum_algorithm(checksum);
    }
    builder = encrypted(builder, options.s3_encryption.as_ref())?;
    let conditional_writes =
        if settings.custom_endpoint { Known::nothing() } else { Known::honoured() };
    let build = |builder: AmazonS3Builder| builder.build().map_err(|error| library_refused(&error));
    let objects = Arc::new(build(builder.clone())?);
    Ok(StoreInner {
        objects: objects.clone(),
        names: Some(objects),
        one_by_one: Some(Arc::new(build(builder.with_disable_bulk_delete(true))?)),
        root_url: format!("s3://{bucket}"),
        bucket: Bucket::S3(S3Bucket { url, region: settings.region, credentials, transport }),
        labels: Labels::Tags,
        retry: options.retry,
        delete_batch: batch_size(options, DELETE_BATCH_MAX),
        conditional_writes,
        blocks: None,
    })
}

fn encrypted(
    builder: AmazonS3Builder,
    encryption: Option<&S3Encryption>,
) -> Result<AmazonS3Builder, CloudError> {
    let settings = match encryption {
        None => vec![],
        Some(S3Encryption::Aes256) => vec![("aws_server_side_encryption", "AES256")],
        Some(S3Encryption::Kms { key_id }) => {
            if let Some(key_id) = key_id {
                check_header_value("option --sse-kms-key-id", key_id)?;
            }
            let key_id = key_id.as_deref().map(|key_id| ("aws_sse_kms_key_id", key_id));
            [("aws_server_side_encryption", "aws:kms")].into_iter().chain(key_id).collect()
        }
    };
    settings.into_iter().try_fold(builder, |builder, (key, value)| {
        let key: AmazonS3ConfigKey = key.parse().map_err(|error| library_refused(&error))?;
        Ok(builder.with_config(key, value))
    })
}

/// boto3's rule: `auto` is the host at AWS and the path at a named endpoint. A dot in the bucket
/// would not fit the certificate of `*.s3.amazonaws.com`.
fn is_virtual(style: AddressingStyle, custom_endpoint: bool, bucket: &str) -> bool {
    match style {
        AddressingStyle::Virtual => true,
        AddressingStyle::Path => false,
        AddressingStyle::Auto => {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            !custom_endpoint && (3..=63).contains(&bucket.len()) && bucket.chars().all(fits)
        }
    }
}

fn bucket_url(endpoint: &Url, bucket: &str, virtual_hosted: bool) -> Result<Url, CloudError> {
    let unfit = || CloudError::new(format!("\"{bucket}\" cannot be the name of a bucket"));
    let mut url = endpoint.clone();
    if virtual_hosted {
        let host = format!("{bucket}.{}", endpoint.host_str().unwrap_or_default());
        url.set_host(Some(&host)).map_err(|_| unfit())?;
    } else {
        url.path_segments_mut().map_err(|()| unfit())?.pop_if_empty().push(bucket);
    }
    Ok(url)
}

/// The library wants the bucket in the endpoint exactly when it is in the host.
fn endpoint_for_library(endpoint: &Url, bucket_url: &Url, virtual_hosted: bool) -> String {
    let url = if virtual_hosted { bucket_url } else { endpoint };
    url.as_str().trim_end_matches('/').to_string()
}

#[cfg(test)]
mod tests {
    use crate::store::options::AddressingStyle::{Auto, Path, Virtual};
    use crate::store::s3::{bucket_url, is_virtual};
    use url::Url;

    #[test]
    fn auto_puts_the_bucket_in_the_host_at_aws_only() {
        let cases = [
            (Auto, false, "backups", true),
            (Auto, false, "my.backups", false),
            (Auto, false, "My_Backups", false),
            (Auto, true, "backups", false),
            (Virtual, true, "backups", true),
            (Path, false, "backups", false),
        ];
        for (style, custom, bucket, expected) in cases {
            assert_eq!(is_virtual(style, custom, bucket), expected, "{style:?} {custom} {bucket}");
        }
    }

    #[test]
    fn the_bucket_goes_in_front_of_the_host_or_behind_the_path() {
        let endpoint = Url::parse("https://s3.example:9000/gate/").expect("url");
        let url = |is_virtual| bucket_url(&endpoint, "b", is_virtual).expect("url").to_string();
        assert_eq!(url(true), "https://b.s3.example:9000/gate/");
        assert_eq!(url(false), "https://s3.example:9000/gate/b");
    }
}
