//! Opens the listeners of one process and serves a component until the context shuts down.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use parallax_net::{
    Context, GrpcServer, GrpcServerConfig, HttpServer, base_router, counted, watch_credentials,
};
use parallax_storeapi::{Guard, METHODS, Store};

use crate::command::web_config;

/// The addresses of one process.
pub struct Addresses {
    pub http: String,
    /// Its TLS and passwords: a file as of `--http.config`.
    pub http_config: Option<PathBuf>,
    /// Without one, no StoreAPI is served.
    pub grpc: Option<GrpcServerConfig>,
    /// What callers of the StoreAPI may see; `None`: everything.
    pub guard: Option<Arc<dyn Guard>>,
}

/// Bound listeners: a port in use is found before anything else starts.
pub struct Listeners {
    http: HttpServer,
    grpc: Option<GrpcServer>,
    guard: Option<Arc<dyn Guard>>,
}

impl Listeners {
    /// # Errors
    /// If an address cannot be bound; the message names it and its flag.
    pub async fn bind(addresses: Addresses, context: &Context) -> anyhow::Result<Self> {
        let http = HttpServer::bind(&addresses.http, "http-address").await?;
        let http = http.secured(web_config::security(addresses.http_config, context).await?);
        let grpc = match addresses.grpc {
            Some(config) => {
                if let Some(source) = &config.tls {
                    watch_credentials(&context.metrics, "grpc_server", source);
                }
                Some(GrpcServer::bind(config, &context.metrics).await?.counting(METHODS))
            }
            None => None,
        };
        tracing::info!(address = %http.local_addr(), "http server listens");
        if let Some(grpc) = &grpc {
            tracing::info!(address = %grpc.local_addr(), "grpc server listens");
        }
        Ok(Self { http, grpc, guard: addresses.guard })
    }

    /// Serves `router` (besides metrics and probes) and `store` until shutdown.
    pub async fn serve(self, context: &Context, router: Router, store: Arc<dyn Store>) -> anyhow::Result<()> {
        let router = counted(base_router(context).merge(router), &context.metrics);
        let http = async {
            self.http.serve(router, context.shutdown.clone()).await.context("serving http")?;
            anyhow::Ok(())
        };
        let grpc = async {
            let Some(server) = self.grpc else { return Ok(()) };
            let routes = parallax_storeapi::guarded_routes(store, self.guard, context.readiness.subscribe())?;
            server.serve(routes, context.shutdown.clone()).await.context("serving grpc")?;
            anyhow::Ok(())
        };
        tokio::try_join!(http, grpc)?;
        Ok(())
    }
}

/// The HTTP listener of a process that serves no StoreAPI.
pub async fn bind_http(
    address: &str,
    config: Option<PathBuf>,
    context: &Context,
) -> anyhow::Result<HttpServer> {
    let http = HttpServer::bind(address, "http-address").await?;
    let http = http.secured(web_config::security(config, context).await?);
    tracing::info!(address = %http.local_addr(), "http server listens");
    Ok(http)
}

/// Serves `router`, metrics and probes until shutdown.
pub async fn serve_http(http: HttpServer, context: &Context, router: Router) -> anyhow::Result<()> {
    let router = counted(base_router(context).merge(router), &context.metrics);
    http.serve(router, context.shutdown.clone()).await.context("serving http")
}
