//! Keys from the shared files of the AWS tools: `~/.aws/credentials`, and `~/.aws/config` for `aws_sdk_auth`.
//!
//! The file is read again when it changes, so that rotated keys take effect without a restart. Profiles that need another program or a login
//! (`credential_process`, `sso_*`, `source_profile`) are refused by name. Format: INI sections `[default]`, `[name]`, `[profile name]`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::Environment;
use crate::BucketError;

/// A credentials file larger than this is no credentials file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The keys of one profile of one file.
pub(super) struct ProfileCredentials {
    file: PathBuf,
    profile: String,
    current: Mutex<Option<(SystemTime, Arc<AwsCredential>)>>,
}

impl fmt::Debug for ProfileCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "profile {:?} of {:?}", self.profile, self.file)
    }
}

impl ProfileCredentials {
    /// The first file that has keys for the chosen profile; `None` if there is no such file.
    ///
    /// # Errors
    /// [`BucketError::Config`] if a file cannot be read, or its profile asks for what is not supported.
    pub(super) fn find(
        environment: &Environment,
        with_config_file: bool,
    ) -> Result<Option<Self>, BucketError> {
        let named = environment.get("AWS_PROFILE");
        let profile = named.clone().unwrap_or_else(|| "default".to_owned());
        let credentials = environment
            .get("AWS_SHARED_CREDENTIALS_FILE")
            .map(PathBuf::from)
            .or_else(|| environment.home(".aws/credentials"));
        let config =
            environment.get("AWS_CONFIG_FILE").map(PathBuf::from).or_else(|| environment.home(".aws/config"));
        for file in [credentials, config.filter(|_| with_config_file)].into_iter().flatten() {
            if file.exists() && keys(&file, &profile)?.is_some() {
                return Ok(Some(Self { file, profile, current: Mutex::new(None) }));
            }
        }
        match named {
            Some(profile) => {
                Err(wrong(format!("AWS_PROFILE {profile:?} is in no credentials file, or has no keys")))
            }
            None => Ok(None),
        }
    }

    fn load(&self) -> Result<Arc<AwsCredential>, BucketError> {
        let changed = std::fs::metadata(&self.file)
            .and_then(|metadata| metadata.modified())
            .map_err(|error| wrong(format!("{:?}: {error}", self.file)))?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, credential)) = &*current
            && *at == changed
        {
            return Ok(Arc::clone(credential));
        }
        let credential = keys(&self.file, &self.profile)?
            .ok_or_else(|| wrong(format!("{:?} has no keys for profile {:?}", self.file, self.profile)))?;
        let credential = Arc::new(credential);
        *current = Some((changed, Arc::clone(&credential)));
        Ok(credential)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.load().map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })
    }
}

fn wrong(reason: String) -> BucketError {
    BucketError::Config { line: None, reason }
}

fn keys(file: &Path, profile: &str) -> Result<Option<AwsCredential>, BucketError> {
    let unreadable = |error: std::io::Error| wrong(format!("{file:?}: {error}"));
    if std::fs::metadata(file).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(wrong(format!("{file:?} is too large for a credentials file")));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    parse(&text, profile).map_err(|key| {
        wrong(format!(
            "{file:?}: profile {profile:?} needs {key}, which is not supported: give it keys of its own"
        ))
    })
}

/// The keys of a profile; the name of an unsupported way to get them as an error.
fn parse(text: &str, profile: &str) -> Result<Option<AwsCredential>, String> {
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    let mut foreign = None;
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = section.trim();
            inside = name.strip_prefix("profile ").map_or(name, str::trim) == profile;
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        match name.as_str() {
            _ if !inside || value.is_empty() => {}
            "aws_access_key_id" => key_id = Some(value),
            "aws_secret_access_key" => secret_key = Some(value),
            "aws_session_token" => token = Some(value),
            "credential_process" | "source_profile" | "credential_source" => foreign = Some(name),
            _ if name.starts_with("sso_") => foreign = Some(name),
            _ => {}
        }
    }
    match (key_id, secret_key, foreign) {
        (Some(key_id), Some(secret_key), _) => Ok(Some(AwsCredential { key_id, secret_key, token })),
        (_, _, Some(foreign)) => Err(foreign),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=S=1\n\n[profile other]\n\
                        aws_access_key_id=B\naws_secret_access_key=T\naws_session_token=U\n[sso]\nsso_session = x\n[empty]\n";

    #[test]
    fn profiles_are_found_by_name() {
        let default = parse(FILE, "default").unwrap().unwrap();
        assert_eq!((default.key_id.as_str(), default.secret_key.as_str(), default.token), ("A", "S=1", None));
        let other = parse(FILE, "other").unwrap().unwrap();
        assert_eq!((other.key_id.as_str(), other.token.as_deref()), ("B", Some("U")));
        assert!(parse(FILE, "empty").unwrap().is_none());
        assert!(parse(FILE, "absent").unwrap().is_none());
        assert_eq!(parse(FILE, "sso").unwrap_err(), "sso_session");
    }

    #[test]
    fn changed_keys_are_read_again_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        std::fs::write(&file, FILE).unwrap();
        let path = file.to_str().unwrap().to_owned();
        let environment = Environment::fixed([("AWS_SHARED_CREDENTIALS_FILE", &path)]);
        let found = ProfileCredentials::find(&environment, false).unwrap().unwrap();
        assert_eq!(found.load().unwrap().key_id, "A");
        assert!(!format!("{found:?}").contains("S=1"));
        std::fs::write(&file, FILE.replace("= A", "= C")).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_eq!(found.load().unwrap().key_id, "C");
        let absent = Environment::fixed([("AWS_SHARED_CREDENTIALS_FILE", &path), ("AWS_PROFILE", "nobody")]);
        assert!(ProfileCredentials::find(&absent, false).unwrap_err().to_string().contains("nobody"));
    }
}
