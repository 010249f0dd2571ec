//! Authority, issuing, identity, trust bundles, hot-reloaded credentials.
