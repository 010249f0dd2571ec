//! Thanos' gRPC protocol in our own words: generated code, the Store trait, client, server.
