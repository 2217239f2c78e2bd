//! Values of variables, options and files that become part of a header or a host name.
//!
//! What does not fit there is refused by the name of where it comes from, before a library gets
//! it: some panic, and none can say which variable it was. The values may be secrets and are
//! never repeated.

use crate::cloud::CloudError;

/// Checks that `value` can stand in a header, as identities and tokens must.
pub(crate) fn check_header_value(source: &str, value: &str) -> Result<(), CloudError> {
    match value.chars().find(|c| !c.is_ascii_graphic()) {
        None => Ok(()),
        Some(found) => Err(unfit(source, found)),
    }
}

/// Checks that `value` can have been meant: a key is only computed with, but none has a line
/// break, and one that was read with the end of its line never fits.
pub(crate) fn check_secret(source: &str, value: &str) -> Result<(), CloudError> {
    match value.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(found) => Err(unfit(source, found)),
    }
}

/// Checks that `value` can be the name of an AWS region: boto3's rule, a label of a host name.
pub(crate) fn check_region(source: &str, value: &str) -> Result<(), CloudError> {
    match is_region(value) {
        true => Ok(()),
        false => Err(CloudError::new(format!("{source} is not the name of an AWS region"))
            .hint("Regions are written like \"eu-west-1\".")),
    }
}

pub fn is_region(value: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&value.len()) && value.chars().all(fits) && !value.starts_with('-')
}

fn unfit(source: &str, found: char) -> CloudError {
    let (what, hint) = match found {
        '\n' | '\r' => ("a line break", Some("Was it read from a file with the end of its line?")),
        ' ' | '\t' => ("a blank", Some("Is there one too many at its beginning or end?")),
        found if found.is_ascii() => ("a control character", None),
        _ => ("a character that is not ASCII", None),
    };
    let error = CloudError::new(format!("{source} has {what}"));
    hint.into_iter().fold(error, CloudError::hint)
}

#[cfg(test)]
mod tests {
    use crate::cloud::fit::{check_header_value, check_region, check_secret};

    #[test]
    fn what_fits_into_no_header_is_named_and_not_repeated() {
        let cases = [
            ("hu\nsh", "a line break"),
            ("hush\r", "a line break"),
            ("hu sh", "a blank"),
            ("hu\0sh", "a control character"),
            ("hush\u{7f}", "a control character"),
            ("hush\u{e9}", "a character that is not ASCII"),
        ];
        for (value, what) in cases {
            let error = check_header_value("AWS_SESSION_TOKEN", value).expect_err(what);
            assert_eq!(error.message, format!("AWS_SESSION_TOKEN has {what}"));
        }
        assert_eq!(check_header_value("X", "AKIA+/=:\"~"), Ok(()));
    }

    #[test]
    fn a_secret_has_no_line_break() {
        assert!(check_secret("X", "hush\n").is_err());
        assert_eq!(check_secret("X", "h\u{fc}sh h"), Ok(()));
    }

    #[test]
    fn a_region_is_a_label_of_a_host_name() {
        for region in ["eu-west-1", "auto", "us-gov-west-1", "RegionOne"] {
            assert_eq!(check_region("AWS_REGION", region), Ok(()));
        }
        for text in ["", "eu west", "a.b", "x/", "-x", "eu-west-1\n", "\u{e9}", "a@b"] {
            check_region("AWS_REGION", text).expect_err(text);
        }
    }
}
