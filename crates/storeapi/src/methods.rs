//! The methods that [`routes`](crate::routes) serves and [`StoreClient`](crate::StoreClient) calls, as metrics tell them apart.

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";
const BIDI_STREAM: &str = "bidi_stream";

/// Paths, and the types of the methods in go-grpc-prometheus' words.
pub const METHODS: &[(&str, &str)] = &[
    ("/thanos.info.Info/Info", UNARY),
    ("/thanos.Store/Series", SERVER_STREAM),
    ("/thanos.Store/LabelNames", UNARY),
    ("/thanos.Store/LabelValues", UNARY),
    ("/thanos.Rules/Rules", SERVER_STREAM),
    ("/thanos.Targets/Targets", SERVER_STREAM),
    ("/thanos.Metadata/MetricMetadata", SERVER_STREAM),
    ("/thanos.Exemplars/Exemplars", SERVER_STREAM),
    ("/thanos.Status/TSDBStatistics", SERVER_STREAM),
    ("/thanos.Query/Query", SERVER_STREAM),
    ("/thanos.Query/QueryRange", SERVER_STREAM),
    ("/parallax.v1.Peer/Shipping", UNARY),
    ("/grpc.health.v1.Health/Check", UNARY),
    ("/grpc.health.v1.Health/Watch", SERVER_STREAM),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", BIDI_STREAM),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", BIDI_STREAM),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::DESCRIPTOR_SET;

    /// Of the protos, which also have a service that is not served.
    fn described(set: &[u8]) -> BTreeMap<String, &'static str> {
        let mut found = BTreeMap::new();
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let kind = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => UNARY,
                        (false, true) => SERVER_STREAM,
                        (true, false) => "client_stream",
                        (true, true) => BIDI_STREAM,
                    };
                    found.insert(path, kind);
                }
            }
        }
        found
    }

    #[test]
    fn the_table_is_what_the_protos_say() {
        let mut protos = described(DESCRIPTOR_SET);
        protos.extend(described(tonic_health::pb::FILE_DESCRIPTOR_SET));
        assert_eq!(protos.remove("/thanos.WriteableStore/RemoteWrite"), Some(UNARY));
        let table = METHODS.iter().filter(|(path, _)| !path.starts_with("/grpc.reflection."));
        let table: BTreeMap<String, &str> = table.map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
        assert_eq!(table, protos);
    }
}
