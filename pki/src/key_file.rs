//! Private keys of authorities at rest: PKCS#8, encrypted with a passphrase (PBES2: scrypt and AES-256-CBC), and the reading of keys that others made.
//!
//! Invariants: a key in memory is wiped when it is dropped where the libraries let us; nothing here prints a key or a passphrase. `openssl pkey` reads
//! what is written. Encrypted keys are only for authorities: they are opened for one command, never by a server.

use std::fmt;

use pkcs8::der::asn1::{AnyRef, BitStringRef, Null, ObjectIdentifier, OctetStringRef};
use pkcs8::der::{Encode as _, SecretDocument};
use pkcs8::pkcs5::pbes2;
use pkcs8::pkcs5::scrypt;
use pkcs8::{AlgorithmIdentifierRef, EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfo};
use rand::RngCore as _;
use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::Error;
use crate::certificate::MAX_PEM_BYTES;

/// Shortest passphrase that is taken for a new authority, in bytes.
pub const MIN_PASSPHRASE_BYTES: usize = 12;
/// Longest passphrase, in bytes: more than anybody types, less than a file given by mistake.
pub const MAX_PASSPHRASE_BYTES: usize = 1024;

/// scrypt's cost: N = 2^14, r = 8, p = 5. 16 MiB, which openssl's own bound (32 MiB) lets it read; p makes up for the smaller N (OWASP lists the pair
/// beside N = 2^17, p = 1).
const SCRYPT_LOG_N: u8 = 14;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 5;
/// Costs above these are refused when reading, lest a planted file takes all memory.
const MAX_SCRYPT_BYTES: u64 = 1 << 30;
const MAX_SCRYPT_P: u16 = 64;
const MAX_PBKDF2_ITERATIONS: u32 = 20_000_000;

const ENCRYPTED_LABEL: &str = "ENCRYPTED PRIVATE KEY";
const BEGIN_ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const CURVE_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const CURVE_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const CURVE_P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// What an authority's key is encrypted with. Wiped when dropped; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// One line; its end (as editors and `echo` leave it) is not part of it. Errors: empty, too long, more than one line.
    pub fn new(text: &str) -> Result<Self, Error> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let refuse = |reason: &str| {
            Err(Error::Malformed { subject: "the passphrase".to_owned(), reason: reason.to_owned() })
        };
        if line.is_empty() {
            return refuse("it is empty");
        }
        if line.len() > MAX_PASSPHRASE_BYTES {
            return refuse("it is longer than 1024 bytes; is this the right file?");
        }
        if line.contains(['\n', '\r', '\0']) {
            return refuse("it has more than one line; is this the right file?");
        }
        Ok(Self(Zeroizing::new(line.to_owned())))
    }

    /// [`Passphrase::new`] for a new authority, which asks for [`MIN_PASSPHRASE_BYTES`].
    pub fn for_new_authority(text: &str) -> Result<Self, Error> {
        let passphrase = Self::new(text)?;
        if passphrase.0.len() < MIN_PASSPHRASE_BYTES {
            return Err(Error::Malformed {
                subject: "the passphrase".to_owned(),
                reason: format!("it is shorter than {MIN_PASSPHRASE_BYTES} bytes"),
            });
        }
        Ok(passphrase)
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// True if `pem` is a key that needs a passphrase.
pub fn is_encrypted(pem: &str) -> bool {
    pem.contains(BEGIN_ENCRYPTED)
}

/// The PKCS#8 PEM of `key`, encrypted if there is a passphrase.
pub(crate) fn seal(
    subject: &str,
    key: &KeyPair,
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<String>, Error> {
    let failed = |reason: &dyn fmt::Display| Error::Signing {
        subject: subject.to_owned(),
        reason: reason.to_string(),
    };
    let plain = pkcs8_der(key).map_err(|error| failed(&error))?;
    let Some(passphrase) = passphrase else {
        return plain.to_pem("PRIVATE KEY", LineEnding::LF).map_err(|error| failed(&error));
    };
    let (mut salt, mut iv) = ([0_u8; 16], [0_u8; 16]);
    rand::rng().fill_bytes(&mut salt);
    rand::rng().fill_bytes(&mut iv);
    let cost = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P).map_err(|error| failed(&error))?;
    let parameters =
        pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(|error| failed(&error))?;
    pkcs8::PrivateKeyInfoRef::try_from(plain.as_bytes())
        .and_then(|info| {
            info.encrypt_with_params(parameters, passphrase.bytes())
                .map_err(|_| pkcs8::der::ErrorKind::Failed.into())
        })
        .map_err(|error| failed(&error))?
        .to_pem(ENCRYPTED_LABEL, LineEnding::LF)
        .map_err(|error| failed(&error))
}

/// Reads a private key of any usual form (PKCS#8, encrypted or not, SEC1, PKCS#1). Errors: an encrypted key without passphrase, a wrong passphrase, a
/// curve or a size that is not supported.
pub fn read_key(subject: &str, pem: &str, passphrase: Option<&Passphrase>) -> Result<KeyPair, Error> {
    let malformed = |reason: String| Error::Malformed { subject: subject.to_owned(), reason };
    if pem.len() as u64 > MAX_PEM_BYTES {
        return Err(Error::TooLarge { subject: subject.to_owned(), limit_bytes: MAX_PEM_BYTES });
    }
    if pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(malformed(
            "it is encrypted in OpenSSL's old form; convert it with `openssl pkcs8 -topk8`".to_owned(),
        ));
    }
    if is_encrypted(pem) {
        let Some(passphrase) = passphrase else {
            return Err(Error::PassphraseNeeded { subject: subject.to_owned() });
        };
        let plain = decrypt(subject, pem, passphrase)?;
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(plain.as_bytes());
        return KeyPair::try_from(&key).map_err(|error| malformed(format!("it is not usable ({error})")));
    }
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| malformed(format!("it holds no private key that can be read ({error})")))?;
    KeyPair::try_from(&key).map_err(|error| {
        malformed(format!(
            "its key is not usable ({error}); supported are ECDSA P-256, P-384, P-521, Ed25519, RSA from 2048 bits"
        ))
    })
}

fn decrypt(subject: &str, pem: &str, passphrase: &Passphrase) -> Result<SecretDocument, Error> {
    let malformed = |reason: String| Error::Malformed { subject: subject.to_owned(), reason };
    let (label, document) = SecretDocument::from_pem(pem.trim())
        .map_err(|error| malformed(format!("its PEM cannot be read ({error})")))?;
    if label != ENCRYPTED_LABEL {
        return Err(malformed(format!("it is a {label}, not an encrypted private key")));
    }
    let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|error| malformed(format!("its encryption is not known here ({error})")))?;
    if let Some(parameters) = info.encryption_algorithm.pbes2() {
        check_cost(&parameters.kdf).map_err(malformed)?;
    }
    info.decrypt(passphrase.bytes()).map_err(|_| Error::WrongPassphrase { subject: subject.to_owned() })
}

fn check_cost(kdf: &pbes2::Kdf) -> Result<(), String> {
    if let Some(scrypt) = kdf.scrypt() {
        let bytes = scrypt.cost_parameter.saturating_mul(128).saturating_mul(u64::from(scrypt.block_size));
        if bytes > MAX_SCRYPT_BYTES || scrypt.parallelization > MAX_SCRYPT_P {
            return Err("its scrypt cost is beyond what is reasonable".to_owned());
        }
    }
    if kdf.pbkdf2().is_some_and(|pbkdf2| pbkdf2.iteration_count > MAX_PBKDF2_ITERATIONS) {
        return Err("its PBKDF2 cost is beyond what is reasonable".to_owned());
    }
    Ok(())
}

/// rcgen keeps the bytes that a key was read from; SEC1 and PKCS#1 need a shell to become PKCS#8.
fn pkcs8_der(key: &KeyPair) -> Result<SecretDocument, pkcs8::der::Error> {
    let bytes = key.serialized_der();
    if pkcs8::PrivateKeyInfoRef::try_from(bytes).is_ok() {
        return SecretDocument::try_from(bytes);
    }
    let curve = |oid: &'static ObjectIdentifier| (EC_PUBLIC_KEY, AnyRef::from(oid));
    let algorithm = key.algorithm();
    let (oid, parameters) = if *algorithm == rcgen::PKCS_ECDSA_P256_SHA256 {
        curve(&CURVE_P256)
    } else if *algorithm == rcgen::PKCS_ECDSA_P384_SHA384 {
        curve(&CURVE_P384)
    } else if *algorithm == rcgen::PKCS_ECDSA_P521_SHA512 {
        curve(&CURVE_P521)
    } else {
        (RSA_ENCRYPTION, AnyRef::from(Null))
    };
    let algorithm = AlgorithmIdentifierRef { oid, parameters: Some(parameters) };
    let info: PrivateKeyInfo<AnyRef<'_>, &OctetStringRef, BitStringRef<'_>> =
        PrivateKeyInfo::new(algorithm, OctetStringRef::new(bytes)?);
    let der = Zeroizing::new(info.to_der()?);
    SecretDocument::try_from(der.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_and_with_no_other() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let sealed = seal("key", &key, Some(&passphrase("correct horse battery"))).unwrap();
        assert!(is_encrypted(&sealed));
        assert!(!sealed.contains("BEGIN PRIVATE KEY"));
        let opened = read_key("key", &sealed, Some(&passphrase("correct horse battery\n"))).unwrap();
        assert_eq!(opened.public_key_raw(), key.public_key_raw());
        let wrong = read_key("key", &sealed, Some(&passphrase("incorrect horse battery")));
        assert!(matches!(wrong, Err(Error::WrongPassphrase { .. })), "{wrong:?}");
        assert!(matches!(read_key("key", &sealed, None), Err(Error::PassphraseNeeded { .. })));
    }

    #[test]
    fn a_passphrase_is_one_line_and_is_never_shown() {
        assert!(Passphrase::new("").is_err());
        assert!(Passphrase::new("\n").is_err());
        assert!(Passphrase::new("two\nlines").is_err());
        assert!(Passphrase::new(&"x".repeat(2000)).is_err());
        assert!(Passphrase::for_new_authority("short").is_err());
        assert_eq!(passphrase("a b\r\n"), passphrase("a b"));
        assert!(!format!("{:?}", passphrase("a secret one")).contains("secret"));
    }

    #[test]
    fn no_text_makes_the_reader_panic() {
        for text in [
            "",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
        ] {
            assert!(read_key("key", text, Some(&passphrase("whatever"))).is_err(), "{text:?}");
        }
    }
}
