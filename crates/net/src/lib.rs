//! gRPC and HTTP servers and clients, mTLS, probes, shutdown, discovery.
