//! Command-line flags in kingpin's style (`--x=v`, `--x v`, `--[no-]x`), each defined once in a table.
//!
//! A table row says what becomes of a flag: it is used, it is accepted because it has no meaning here (and a
//! log line says so when somebody sets it), or it is refused with what to use instead. Nothing is ignored
//! silently. Values are layered: table default, settings file, environment (`PARALLAX_GRPC_ADDRESS`), flag.

mod common;
mod compact;
mod doctor;
mod query;
mod sidecar;
mod store;
mod tools;
mod unbuilt;
mod values;

pub use tools::BUCKET_TOOLS;
pub use values::{Values, parse_bytes, parse_duration, parse_time_ms};

use clap::{Arg, ArgAction, Command};

/// One flag of one component.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the dashes: `grpc-address`.
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written on the command line; empty means unset.
    pub default: &'static str,
    pub help: &'static str,
    pub fate: Fate,
}

/// What a flag's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// May be given more than once; commas also separate.
    List,
    /// `--x` or `--no-x`.
    Switch,
    /// A whole number.
    Number,
    /// A decimal number.
    Decimal,
    /// `5m`, `1h30m`, `500ms`.
    Duration,
    /// `250MB`, `2GiB`, `1024`.
    Bytes,
    /// RFC 3339, or relative to now: `-2w`.
    Time,
}

/// What becomes of a flag that somebody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Used,
    /// Accepted and without effect, for this reason; said in the log when set.
    NoEffect(&'static str),
    /// Refused, with what to use instead.
    Refused(&'static str),
}

impl Flag {
    const fn new(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Self {
        Self { name, kind, default, help, fate: Fate::Used }
    }

    const fn no_effect(self, reason: &'static str) -> Self {
        Self { fate: Fate::NoEffect(reason), ..self }
    }

    const fn refused(self, instead: &'static str) -> Self {
        Self { fate: Fate::Refused(instead), ..self }
    }
}

/// A component with the flags it takes.
pub struct Component {
    pub name: &'static str,
    pub about: &'static str,
    pub flags: fn() -> Vec<Flag>,
    /// Set for a component of Thanos that this version does not have: what to do instead.
    pub unbuilt: Option<&'static str>,
}

/// Every component that has a flag table, in the order of the help.
pub const COMPONENTS: &[Component] = &[
    Component {
        name: "sidecar",
        about: "StoreAPI over one Prometheus, and the shipper of its blocks",
        flags: sidecar::flags,
        unbuilt: None,
    },
    Component {
        name: "store",
        about: "StoreAPI over a bucket of blocks",
        flags: store::flags,
        unbuilt: None,
    },
    Component {
        name: "query",
        about: "One deduplicated answer from many StoreAPIs, over the Prometheus HTTP API",
        flags: query::flags,
        unbuilt: None,
    },
    Component {
        name: "compact",
        about: "Compaction, deduplication, downsampling and retention of a bucket's blocks",
        flags: compact::flags,
        unbuilt: None,
    },
    Component {
        name: "doctor",
        about: "Reaches endpoints step by step and says which step fails, and why",
        flags: doctor::flags,
        unbuilt: None,
    },
    unbuilt::RULE,
    unbuilt::QUERY_FRONTEND,
    unbuilt::RECEIVE,
];

/// The flag that names the settings file.
pub const SETTINGS_FLAG: &str = "settings-file";

/// The command line of `component`, for clap.
pub fn command(component: &Component) -> Command {
    let mut command = Command::new(component.name).about(component.about).disable_version_flag(true);
    if component.unbuilt.is_some() {
        // Its flags are not ours to judge: the answer is the same whatever they are.
        return command
            .hide(true)
            .arg(Arg::new("rest").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true).hide(true));
    }
    for flag in (component.flags)() {
        for arg in args(&flag) {
            command = command.arg(arg);
        }
    }
    command
}

fn args(flag: &Flag) -> Vec<Arg> {
    let help = match flag.fate {
        Fate::Used => flag.help.to_owned(),
        Fate::NoEffect(reason) => format!("{} [accepted, no effect: {reason}]", flag.help),
        Fate::Refused(instead) => format!("[refused: {instead}]"),
    };
    let arg = Arg::new(flag.name).long(flag.name).help(help).hide(flag.fate != Fate::Used);
    if flag.kind == Kind::Switch {
        let negative: &'static str = values::negative_name(flag.name);
        return vec![
            arg.action(ArgAction::SetTrue).overrides_with(negative),
            Arg::new(negative).long(negative).action(ArgAction::SetTrue).hide(true).overrides_with(flag.name),
        ];
    }
    let arg =
        arg.num_args(1).allow_hyphen_values(true).action(ArgAction::Append).value_name(value_name(flag.kind));
    vec![if flag.default.is_empty() {
        arg
    } else {
        arg.help(format!("{} [default: {}]", flag.help, flag.default))
    }]
}

const fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::List => "TEXT,…",
        Kind::Switch => "",
        Kind::Number => "N",
        Kind::Decimal => "X",
        Kind::Duration => "DURATION",
        Kind::Bytes => "SIZE",
        Kind::Time => "TIME",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_flag_of_a_component_is_defined_once_and_its_default_is_readable() {
        for component in COMPONENTS.iter().chain(BUCKET_TOOLS) {
            let mut seen = HashSet::new();
            for flag in (component.flags)() {
                assert!(seen.insert(flag.name), "{}: --{} twice", component.name, flag.name);
                if let Err(error) = values::check(&flag, flag.default) {
                    panic!("{}: default of --{}: {error}", component.name, flag.name);
                }
            }
            command(component).debug_assert();
        }
    }

    /// A flag that counts as used must be asked for by name somewhere outside the tables.
    #[test]
    fn every_used_flag_is_asked_for_by_a_command() {
        let mut sources = String::new();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for file in ["process.rs", "serve.rs", "cli.rs", "flags/values.rs"] {
            sources.push_str(&std::fs::read_to_string(root.join(file)).unwrap());
        }
        let mut directories = vec![root.join("command")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    sources.push_str(&std::fs::read_to_string(path).unwrap());
                }
            }
        }
        let asked = |name: &str| sources.contains(&format!("\"{name}\""));
        // A pair like --objstore.config and --objstore.config-file is asked for by its first name.
        let unread: Vec<String> = COMPONENTS
            .iter()
            .chain(BUCKET_TOOLS)
            .flat_map(|component| (component.flags)().into_iter().map(move |flag| (component.name, flag)))
            .filter(|(_, flag)| flag.fate == Fate::Used && flag.name != SETTINGS_FLAG)
            .filter(|(_, flag)| !asked(flag.name) && !flag.name.strip_suffix("-file").is_some_and(asked))
            .map(|(component, flag)| format!("{component} --{}", flag.name))
            .collect();
        assert!(unread.is_empty(), "nothing reads {unread:?}");
    }
}
