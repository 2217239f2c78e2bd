//! Which cloud.

use std::fmt;
use std::str::FromStr;

/// The values of `--cloud-provider`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloudProvider {
    AwsS3,
    AzureBlobStorage,
    GoogleCloudStorage,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a cloud provider")]
pub struct UnknownProvider {
    text: String,
}

impl CloudProvider {
    pub const ALL: [Self; 3] = [Self::AwsS3, Self::AzureBlobStorage, Self::GoogleCloudStorage];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AwsS3 => "aws-s3",
            Self::AzureBlobStorage => "azure-blob-storage",
            Self::GoogleCloudStorage => "google-cloud-storage",
        }
    }
}

impl fmt::Display for CloudProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CloudProvider {
    type Err = UnknownProvider;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.name() == text)
            .ok_or_else(|| UnknownProvider { text: text.into() })
    }
}
