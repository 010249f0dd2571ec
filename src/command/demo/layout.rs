//! The plan of the demo mesh: its clusters, replicas, ports and directories.

use std::io;
use std::path::{Path, PathBuf};

use parallax_net::free_port;
use parallax_simulate::Fleet;

/// Hours of history in each bucket.
pub const HISTORY_HOURS: i64 = 12;
/// The sidecars serve this much of the recent past; what is older comes from the buckets.
pub const SIDECAR_HOURS: i64 = 4;
/// The mesh's name in certificates.
pub const TRUST_DOMAIN: &str = "demo.parallax";
pub const REPLICA_LABEL: &str = "prometheus_replica";
const REPLICAS: u32 = 2;
/// Clusters with their number of machines and their seed.
const CLUSTERS: [(&str, u32, u64); 2] = [("eu-1", 3, 11), ("us-1", 4, 23)];

/// Where everything of the demo is.
pub struct Layout {
    pub directory: PathBuf,
    pub clusters: Vec<ClusterLayout>,
}

/// One observee cluster.
pub struct ClusterLayout {
    pub name: String,
    pub instances: u32,
    pub seed: u64,
    pub replicas: Vec<ReplicaLayout>,
    /// Where the observer dials: the ingress, if there is one, else the observee.
    pub ingress_port: u16,
    pub observee_grpc_port: u16,
    pub observee_http_port: u16,
    pub exporter_port: u16,
}

/// One Prometheus.
pub struct ReplicaLayout {
    pub number: u32,
    pub port: u16,
}

impl Layout {
    /// A plan with free ports below `directory`.
    ///
    /// # Errors
    /// If no port of loopback is free.
    pub fn plan(directory: &Path, with_ingress: bool) -> io::Result<Self> {
        let clusters = CLUSTERS
            .iter()
            .map(|(name, instances, seed)| {
                let observee_grpc_port = free_port()?;
                Ok(ClusterLayout {
                    name: (*name).to_owned(),
                    instances: *instances,
                    seed: *seed,
                    replicas: (0..REPLICAS)
                        .map(|number| Ok(ReplicaLayout { number, port: free_port()? }))
                        .collect::<io::Result<_>>()?,
                    ingress_port: if with_ingress { free_port()? } else { observee_grpc_port },
                    observee_grpc_port,
                    observee_http_port: free_port()?,
                    exporter_port: free_port()?,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { directory: directory.to_path_buf(), clusters })
    }

    pub fn certificates(&self, owner: &str) -> PathBuf {
        self.directory.join("pki").join(owner)
    }

    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }
}

impl ClusterLayout {
    pub fn fleet(&self, replica: u32) -> Fleet {
        Fleet { cluster: self.name.clone(), replica, instances: self.instances, seed: self.seed }
    }

    pub fn fleets(&self) -> impl Iterator<Item = Fleet> + '_ {
        self.replicas.iter().map(|replica| self.fleet(replica.number))
    }

    /// What the observer expects in the ingress' certificate.
    pub fn server_name(&self) -> String {
        format!("{}.{TRUST_DOMAIN}", self.name)
    }

    pub fn bucket(&self, layout: &Layout) -> PathBuf {
        layout.directory.join("buckets").join(&self.name)
    }

    /// Prometheus' data directory of one replica.
    pub fn data(&self, layout: &Layout, replica: u32) -> PathBuf {
        layout.directory.join("prometheus").join(format!("{}-{replica}", self.name))
    }
}
