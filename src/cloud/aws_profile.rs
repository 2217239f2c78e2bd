//! The few settings that are read from `~/.aws/config` without the SDK.
//!
//! The SDK reads these files too, but asynchronously and together with everything else; a region
//! must be known before the first request and cost no start-up.
//! Source of the format: AWS SDKs and Tools Reference Guide, "Shared config and credentials files".

use crate::cloud::{CloudError, Environment};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

/// Settings of one profile.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AwsProfile {
    settings: HashMap<String, String>,
    /// Which half of a key pair is there without the other, in both files taken together.
    half_pair: Option<HalfPair>,
}

/// One half of a key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfPair {
    KeyIdOnly,
    SecretOnly,
}

impl AwsProfile {
    /// Reads the profile `name`, or `default`. A named profile must exist in one of the files.
    pub fn read(environment: &Environment, name: Option<&str>) -> Result<Self, CloudError> {
        let config = read(environment, "AWS_CONFIG_FILE", "config");
        let credentials = read(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let section = name.unwrap_or("default");
        let in_config = find(&config, &[&format!("profile {section}"), section]);
        let in_credentials = find(&credentials, &[section]);
        match (in_config, in_credentials, name) {
            (None, None, Some(name)) if name != "default" => {
                Err(CloudError::new(format!("AWS profile \"{name}\" does not exist"))
                    .hint("Profiles are read from ~/.aws/config and ~/.aws/credentials."))
            }
            (config, credentials, _) => {
                let has = |key: &str| {
                    let of = |settings: &Option<HashMap<String, String>>| {
                        settings.as_ref().and_then(|it| it.get(key)).is_some_and(|v| !v.is_empty())
                    };
                    of(&config) || of(&credentials)
                };
                let half_pair =
                    HalfPair::of(has("aws_access_key_id"), has("aws_secret_access_key"));
                Ok(Self { settings: config.unwrap_or_default(), half_pair })
            }
        }
    }

    pub fn half_pair(&self) -> Option<HalfPair> {
        self.half_pair
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl HalfPair {
    pub fn of(has_key_id: bool, has_secret: bool) -> Option<Self> {
        match (has_key_id, has_secret) {
            (true, false) => Some(Self::KeyIdOnly),
            (false, true) => Some(Self::SecretOnly),
            _ => None,
        }
    }
}

/// The values may be secrets.
impl fmt::Debug for AwsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsProfile({} settings)", self.settings.len())
    }
}

/// The files that profiles are read from, there or not.
pub fn profile_files(environment: &Environment) -> Vec<PathBuf> {
    [("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")]
        .into_iter()
        .filter_map(|(variable, file_name)| path_of(environment, variable, file_name))
        .collect()
}

fn path_of(environment: &Environment, variable: &str, file_name: &str) -> Option<PathBuf> {
    match environment.get(variable) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(PathBuf::from(environment.get("HOME")?).join(".aws").join(file_name)),
    }
}

fn read(environment: &Environment, variable: &str, file_name: &str) -> String {
    // Not there or not readable: as if empty, which is what the SDKs do.
    let path = path_of(environment, variable, file_name);
    path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
}

/// The settings of the first section that has one of `names`; indented lines (settings of a
/// nested service) are left out.
pub(crate) fn find(text: &str, names: &[&str]) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        if let Some(section) = section_name(line) {
            inside = names.contains(&section.as_str());
            if inside {
                found.get_or_insert_default();
            }
        } else if inside
            && !line.starts_with([' ', '\t', '#', ';'])
            && let (Some(found), Some((key, value))) = (&mut found, line.split_once('='))
        {
            found.insert(key.trim().to_lowercase(), value.trim().to_string());
        }
    }
    found
}

fn section_name(line: &str) -> Option<String> {
    let inner = line.trim().strip_prefix('[')?.split(']').next()?;
    Some(inner.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use crate::cloud::Environment;
    use crate::cloud::aws_profile::AwsProfile;

    fn environment(config: &str, credentials: &str) -> (tempfile::TempDir, Environment) {
        let home = tempfile::tempdir().expect("directory");
        let aws = home.path().join(".aws");
        std::fs::create_dir(&aws).expect("directory");
        std::fs::write(aws.join("config"), config).expect("config");
        std::fs::write(aws.join("credentials"), credentials).expect("credentials");
        let path = home.path().to_string_lossy().into_owned();
        (home, Environment::of([("HOME", path.as_str())]))
    }

    #[test]
    fn settings_come_from_the_named_section() {
        let (_home, environment) = environment(
            "[default]\nregion = eu-west-1\n[profile backup]\nregion=eu-central-1\n\
             s3 =\n  addressing_style = path\nca_bundle = /ca.pem\n[profile x]\nregion = no\n",
            "[old]\naws_access_key_id = a\n",
        );
        let region = |name| {
            let profile = AwsProfile::read(&environment, name).expect("profile");
            profile.get("region").map(str::to_string)
        };
        assert_eq!(region(None).as_deref(), Some("eu-west-1"));
        assert_eq!(region(Some("backup")).as_deref(), Some("eu-central-1"));
        assert_eq!(region(Some("old")), None);
        let backup = AwsProfile::read(&environment, Some("backup")).expect("profile");
        assert_eq!(backup.get("ca_bundle"), Some("/ca.pem"));
        assert_eq!(backup.get("addressing_style"), None);
    }

    #[test]
    fn a_named_profile_must_exist() {
        let (_home, environment) = environment("[default]\nregion = x\n", "");
        let error = AwsProfile::read(&environment, Some("nope")).expect_err("missing");
        assert_eq!(error.message, "AWS profile \"nope\" does not exist");
        assert_eq!(AwsProfile::read(&Environment::of([]), None), Ok(AwsProfile::default()));
    }
}
