//! A configuration file on its way to Prometheus: unpacked if it is gzip, `$(NAME)` replaced from the environment.
//!
//! Only that one form is a reference, as with Thanos: `$NAME` and `${NAME}` belong to relabelling. A value is put in as it is and not looked at again.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;

/// The largest file that is read, and the largest that one may unpack to.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;

/// The first bytes of a gzip file that is deflated, the only kind there is.
const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];

/// A configuration with its references replaced.
#[derive(Debug, PartialEq)]
pub(super) struct Expanded {
    pub bytes: Vec<u8>,
    /// Names that the environment does not have, each once, in order of appearance; their references were left as they are.
    pub unset: Vec<String>,
}

/// # Errors
/// If the file is gzip and cannot be unpacked, or unpacks to more than [`MAX_FILE_BYTES`].
pub(super) fn expand(file: Vec<u8>, variable: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Expanded, String> {
    let text = if file.starts_with(&GZIP) { unpack(&file)? } else { file };
    let mut expanded = Expanded { bytes: Vec::with_capacity(text.len()), unset: Vec::new() };
    let mut rest = text.as_slice();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"$(") {
        let (before, from) = rest.split_at(at);
        expanded.bytes.extend_from_slice(before);
        let (reference, after) = match name_of(from) {
            // Not a reference: the dollar sign stays, and what follows it may begin one.
            None => from.split_at(1),
            Some(name) => {
                // The name between "$(" and ")".
                let (reference, after) = from.split_at(name.len() + 3);
                match variable(name) {
                    Some(value) => {
                        expanded.bytes.extend_from_slice(&value);
                        rest = after;
                        continue;
                    }
                    None if !expanded.unset.iter().any(|unset| unset == name) => {
                        expanded.unset.push(name.to_owned());
                    }
                    None => {}
                }
                (reference, after)
            }
        };
        expanded.bytes.extend_from_slice(reference);
        rest = after;
    }
    expanded.bytes.extend_from_slice(rest);
    Ok(expanded)
}

/// The name in `$(name)` at the start of `text`, if that is what stands there.
fn name_of(text: &[u8]) -> Option<&str> {
    let inside = text.strip_prefix(b"$(")?;
    let length = inside.iter().position(|byte| *byte != b'_' && !byte.is_ascii_alphanumeric())?;
    let (name, end) = inside.split_at(length);
    (!name.is_empty() && end.first() == Some(&b')')).then(|| std::str::from_utf8(name).ok()).flatten()
}

fn unpack(file: &[u8]) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    let reading = MultiGzDecoder::new(file).take(MAX_FILE_BYTES + 1).read_to_end(&mut unpacked);
    reading.map_err(|error| format!("it begins as gzip and cannot be unpacked: {error}"))?;
    if unpacked.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it unpacks to more than {MAX_FILE_BYTES} bytes"));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn expanded(text: &str) -> (String, Vec<String>) {
        let variable = |name: &str| match name {
            "POD" => Some(b"prometheus-0".to_vec()),
            "EMPTY" => Some(Vec::new()),
            "ODD" => Some(b"$(POD)".to_vec()),
            _ => None,
        };
        let found = expand(text.as_bytes().to_vec(), variable).unwrap();
        (String::from_utf8(found.bytes).unwrap(), found.unset)
    }

    #[test]
    fn only_parenthesised_names_are_references_and_values_are_not_expanded_again() {
        for (text, expected) in [
            ("replica: '$(POD)'", "replica: 'prometheus-0'"),
            ("$(POD)$(EMPTY)$(POD)", "prometheus-0prometheus-0"),
            ("$(ODD)", "$(POD)"),
            ("$POD ${POD} $$(POD) $(POD", "$POD ${POD} $prometheus-0 $(POD"),
            ("$() $(P-D) $(( $(POD))", "$() $(P-D) $(( prometheus-0)"),
            ("", ""),
            ("$(", "$("),
        ] {
            assert_eq!(expanded(text), (expected.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn names_that_are_not_set_stay_and_are_told_once() {
        let (text, unset) = expanded("$(B) $(A) $(POD) $(B)");
        assert_eq!(text, "$(B) $(A) prometheus-0 $(B)");
        assert_eq!(unset, ["B", "A"]);
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_packed_file_is_unpacked_and_a_damaged_or_endless_one_is_an_error() {
        let whole = packed(b"pod: $(POD)");
        let found = expand(whole.clone(), |_| Some(b"x".to_vec())).unwrap();
        assert_eq!(found.bytes, b"pod: x");
        for length in GZIP.len()..whole.len() {
            assert!(expand(whole[..length].to_vec(), |_| None).unwrap_err().contains("gzip"), "{length}");
        }
        let bomb = packed(&vec![0; usize::try_from(MAX_FILE_BYTES).unwrap() + 1]);
        assert!(expand(bomb, |_| None).unwrap_err().contains("more than"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_expand_to_themselves_where_nothing_is_set(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(found) = expand(bytes.clone(), |_| None) {
                proptest::prop_assert!(found.bytes == bytes || bytes.starts_with(&GZIP));
            }
        }
    }
}
