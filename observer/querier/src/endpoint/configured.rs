//! An endpoint as it is configured: how it is reached, which cluster it is declared as, and what it may send.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parallax_net::GrpcTarget;
use parallax_storeapi::Store;

use super::{Declared, EndpointOptions, Hedge};
use crate::Error;
use crate::claim::{ForeignLabels, delegation_defect};

/// How to reach an endpoint.
#[derive(Clone)]
pub enum Connection {
    /// A component of this process.
    Local(Arc<dyn Store>),
    Remote(GrpcTarget),
    /// Several servers that hold the same; each call goes to the next of them.
    Group(Vec<GrpcTarget>),
    /// Several servers that hold the same, in the order of preference.
    Alternatives(Alternatives),
    /// An entry that cannot be used, and why: it is missing from every answer that could have needed it.
    Unusable(String),
}

/// Named servers, each reached by itself, and when one that is asked too late is not waited for alone.
#[derive(Clone, Debug)]
pub struct Alternatives {
    pub members: Vec<(String, Connection)>,
    pub hedge: Hedge,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) => f.write_str("Local"),
            Self::Remote(target) => f.debug_tuple("Remote").field(&target.address).finish(),
            Self::Group(targets) => {
                f.debug_list().entries(targets.iter().map(|target| &target.address)).finish()
            }
            Self::Alternatives(alternatives) => {
                f.debug_list().entries(alternatives.members.iter().map(|(name, _)| name)).finish()
            }
            Self::Unusable(reason) => f.debug_tuple("Unusable").field(reason).finish(),
        }
    }
}

impl Connection {
    /// The servers that it has to reach, but for those of groups, which come and go.
    pub(super) fn targets(&self) -> Vec<&GrpcTarget> {
        match self {
            Self::Remote(target) => vec![target],
            Self::Alternatives(all) => {
                all.members.iter().flat_map(|(_, connection)| connection.targets()).collect()
            }
            Self::Local(_) | Self::Group(_) | Self::Unusable(_) => Vec::new(),
        }
    }
}

/// What one endpoint may send; `None`: as much as all others ([`EndpointOptions::message_limits`], [`crate::ProxyConfig`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointLimits {
    /// Largest frame of series, in bytes.
    pub frame_bytes: Option<usize>,
    /// Most bytes of series in one answer; 0 for no limit.
    pub response_bytes: Option<u64>,
}

/// One endpoint as configured.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Its address, or a name of its own; unique, and in every warning about it.
    pub name: String,
    /// The cluster that it has to hold. Should it not advertise it, that is reported.
    pub cluster: Option<String>,
    /// Of a hub over several clusters, which `cluster` then is the name of: those it may answer for, each of which it has to hold. Empty: `cluster` alone.
    pub delegated: Vec<String>,
    /// What becomes of labels by which it claims to be another cluster; `None`: what [`EndpointOptions::foreign_labels`] says.
    pub foreign_labels: Option<ForeignLabels>,
    /// Thanos' `--endpoint-strict`. Every endpoint is static here and kept when it is down, so this only shows in its status.
    pub strict: bool,
    /// Thanos' `--endpoint-group`: several servers behind one address.
    pub group: bool,
    /// A store of finished blocks, which holds nothing until there is a first one: while it is well, to advertise no label set at all is
    /// complete, not a missing cluster.
    pub may_be_empty: bool,
    /// What is known of its cluster beside the name.
    pub declared: Declared,
    /// What it may send, where that is not what all endpoints may.
    pub limits: EndpointLimits,
    /// Tells how it is reached: an endpoint of the same name and revision keeps its connection when endpoints are replaced.
    pub revision: String,
    pub connection: Connection,
}

impl EndpointConfig {
    pub fn new(name: impl Into<String>, connection: Connection) -> Self {
        Self {
            name: name.into(),
            cluster: None,
            delegated: Vec::new(),
            foreign_labels: None,
            strict: false,
            group: false,
            may_be_empty: false,
            declared: Declared::default(),
            limits: EndpointLimits::default(),
            revision: String::new(),
            connection,
        }
    }

    #[must_use]
    pub fn with_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = Some(cluster.into());
        self
    }

    /// The clusters that a hub may answer for; none: only the one it is declared as.
    #[must_use]
    pub fn with_delegated(mut self, delegated: &[String]) -> Self {
        self.delegated = delegated.to_vec();
        self
    }

    #[must_use]
    pub fn with_foreign_labels(mut self, foreign_labels: Option<ForeignLabels>) -> Self {
        self.foreign_labels = foreign_labels;
        self
    }

    #[must_use]
    pub fn with_declared(mut self, declared: Declared) -> Self {
        self.declared = declared;
        self
    }

    #[must_use]
    pub fn with_limits(mut self, limits: EndpointLimits) -> Self {
        self.limits = limits;
        self
    }

    /// How it is reached, in words that change when that does.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = revision.into();
        self
    }

    #[must_use]
    pub fn that_may_be_empty(mut self) -> Self {
        self.may_be_empty = true;
        self
    }

    /// Errors: what is delegated to it cannot be.
    pub(super) fn check(&self, options: &EndpointOptions) -> Result<(), Error> {
        match delegation_defect(&self.delegated, self.foreign_labels.unwrap_or(options.foreign_labels)) {
            None => Ok(()),
            Some(reason) => Err(Error::Delegation { endpoint: self.name.clone(), reason }),
        }
    }

    /// The clusters it has to hold, sorted.
    pub(super) fn expected(&self) -> Arc<[String]> {
        let names =
            if self.delegated.is_empty() { self.cluster.as_slice() } else { self.delegated.as_slice() };
        names.iter().cloned().collect::<BTreeSet<String>>().into_iter().collect()
    }
}
