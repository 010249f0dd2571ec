//! Names of objects: whatever is asked for stays beneath the bucket's prefix.

use object_store::path::Path;

use crate::BucketError;

/// Letters of a ULID: Crockford's base 32 without I, L, O, U.
const ULID_LETTERS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID_LENGTH: usize = 26;

/// Whether a directory of the bucket's root can be a block: its name is a ULID, in upper case.
pub fn is_block_id(name: &str) -> bool {
    // The first letter carries three bits only.
    name.len() == ULID_LENGTH
        && name.bytes().all(|byte| ULID_LETTERS.contains(&byte))
        && name.as_bytes().first().is_some_and(|first| *first <= b'7')
}

/// The full path of `object` beneath `prefix`.
///
/// # Errors
/// [`BucketError::InvalidName`] for an empty or absolute name, empty, `.` or `..` segments, backslashes and
/// control characters.
pub fn beneath(prefix: &Path, object: &str) -> Result<Path, BucketError> {
    let invalid =
        |reason: &str| BucketError::InvalidName { object: object.to_owned(), reason: reason.to_owned() };
    if object.is_empty() {
        return Err(invalid("it is empty"));
    }
    if object.starts_with('/') || object.ends_with('/') {
        return Err(invalid("it begins or ends with a slash"));
    }
    if object.chars().any(|c| c == '\\' || c.is_control()) {
        return Err(invalid("it holds a backslash or a control character"));
    }
    let relative = Path::parse(object).map_err(|error| invalid(&error.to_string()))?;
    Ok(prefix.parts().chain(relative.parts()).collect())
}

/// The prefix of a bucket, as written in its configuration: slashes around it do not count.
///
/// # Errors
/// As [`beneath`], but an empty prefix is fine.
pub fn prefix(text: &str) -> Result<Path, BucketError> {
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() { Ok(Path::default()) } else { beneath(&Path::default(), trimmed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_prefix() {
        let root = prefix("/a/b/").unwrap();
        assert_eq!(beneath(&root, "c/d").unwrap().as_ref(), "a/b/c/d");
        for bad in ["", "/c", "c/", "../c", "c/../../d", "c//d", "./c", "c\\d", "c\0d"] {
            assert!(beneath(&root, bad).is_err(), "{bad:?}");
        }
        assert!(prefix("../x").is_err());
        assert_eq!(prefix("").unwrap(), Path::default());
    }

    #[test]
    fn only_ulids_are_blocks() {
        assert!(is_block_id("01M7ZT2XAE94D33BEGH3SZ0N19"));
        for bad in [
            "",
            "debug",
            "01M7ZT2XAE94D33BEGH3SZ0N1",
            "01m7zt2xae94d33begh3sz0n19",
            "81M7ZT2XAE94D33BEGH3SZ0N19",
            "01M7ZT2XAE94D33BEGH3SZ0N1U",
        ] {
            assert!(!is_block_id(bad), "{bad:?}");
        }
    }
}
