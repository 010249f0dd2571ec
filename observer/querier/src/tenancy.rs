//! Thanos' tenancy of queries: whose a request is, and what a tenant is held to.
//!
//! The tenant comes from the client's certificate, where a field is configured, or else from a header; without either it is the default tenant. It is passed on to the stores
//! beneath. With [`TenancyOptions::enforce`] whatever the tenant reads has to carry its label, over HTTP and, unlike in Thanos, over gRPC and in every service, too. A query that
//! asks for another tenant's series gets nothing: Thanos takes its matcher out and answers with the caller's own, as if these were what was asked for.
//!
//! Sources: Thanos `pkg/tenancy`, `cmd/thanos/query.go`.

use http::{Extensions, HeaderMap, HeaderName};
use parallax_net::{PeerInfo, SubjectField};
use parallax_storeapi::{Caller, Hold, TENANT_HEADER};
use tonic::Status;

/// Longest name of a tenant.
const MAX_TENANT_BYTES: usize = 512;

/// Flags `--query.tenant-…`, with Thanos' defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenancyOptions {
    /// Where HTTP requests say whose they are; Thanos' own header is looked at, too.
    pub header: HeaderName,
    /// Of requests that do not.
    pub default_tenant: String,
    /// The label that tells tenants apart.
    pub label: String,
    /// The field of the client's certificate that counts instead of headers.
    pub certificate_field: Option<SubjectField>,
    pub enforce: bool,
}

impl Default for TenancyOptions {
    fn default() -> Self {
        Self {
            header: HeaderName::from_static(TENANT_HEADER),
            default_tenant: "default-tenant".to_owned(),
            label: "tenant_id".to_owned(),
            certificate_field: None,
            enforce: false,
        }
    }
}

/// By which way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    Http,
    Grpc,
}

impl TenancyOptions {
    /// Whose a request is, and what that means for what may be read.
    ///
    /// # Errors
    /// If there is no certificate with the field, or the name cannot be a tenant's.
    pub fn caller(&self, hop: Hop, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Status> {
        // Over gRPC, certificates are those of queriers; unless tenants are kept apart, these may say for whom they ask.
        let field = self.certificate_field.filter(|_| hop == Hop::Http || self.enforce);
        let tenant = match field {
            Some(field) => of_certificate(field, extensions.get::<PeerInfo>())?,
            None => self.of_headers(headers)?,
        };
        check(&tenant)?;
        let hold = if self.enforce { Hold::of_tenant(&self.label, &tenant) } else { Hold::default() };
        Ok(Caller { hold, tenant: Some(tenant.into()), identity: None })
    }

    fn of_headers(&self, headers: &HeaderMap) -> Result<String, Status> {
        let own = std::iter::once(self.header.as_str()).chain([TENANT_HEADER]);
        let given = own.filter_map(|name| headers.get(name)).find(|value| !value.is_empty());
        let Some(value) = given else { return Ok(self.default_tenant.clone()) };
        let text = value.to_str().map_err(|_| Status::invalid_argument("the tenant's name is no text"))?;
        Ok(text.to_owned())
    }
}

fn of_certificate(field: SubjectField, peer: Option<&PeerInfo>) -> Result<String, Status> {
    let named = peer.and_then(|peer| peer.subject(field)).filter(|name| !name.is_empty());
    named.ok_or_else(|| {
        let field = field.as_str();
        Status::invalid_argument(format!(
            "could not get {field} field from client cert: it is whose request this is (--query.tenant-certificate-field); connect over TLS with a certificate that has it"
        ))
    })
}

/// As Thanos: a tenant is one segment of a path.
fn check(tenant: &str) -> Result<(), Status> {
    let is_segment = !tenant.is_empty() && tenant.len() <= MAX_TENANT_BYTES && !tenant.contains('/');
    is_segment.then_some(()).ok_or_else(|| Status::invalid_argument("Tenant name not valid"))
}

/// The hold of both, and whatever either knows of the caller.
pub fn together(first: Caller, second: Caller) -> Caller {
    Caller {
        hold: first.hold.and(&second.hold),
        tenant: first.tenant.or(second.tenant),
        identity: first.identity.or(second.identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(
        options: &TenancyOptions,
        hop: Hop,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Caller, String> {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let caller = options.caller(hop, &headers.collect(), &Extensions::new());
        caller.map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_tenant_is_named_by_its_header_or_thanos_own_or_nobody() {
        let options =
            TenancyOptions { header: HeaderName::from_static("x-team"), ..TenancyOptions::default() };
        let of = |headers: &[(&'static str, &'static str)]| {
            caller(&options, Hop::Http, headers).unwrap().tenant.unwrap().to_string()
        };
        assert_eq!(of(&[("x-team", "a"), ("thanos-tenant", "b")]), "a");
        assert_eq!(of(&[("x-team", ""), ("thanos-tenant", "b")]), "b");
        assert_eq!(of(&[]), "default-tenant");
        assert!(caller(&options, Hop::Http, &[]).unwrap().hold.is_everything());
    }

    #[test]
    fn a_name_that_is_no_segment_of_a_path_is_refused() {
        for name in ["a/b", "../x", "/"] {
            let told = caller(&TenancyOptions::default(), Hop::Http, &[("thanos-tenant", name)]);
            assert_eq!(told.unwrap_err(), "Tenant name not valid", "{name}");
        }
    }

    #[test]
    fn where_the_certificate_counts_a_header_does_not() {
        let field = Some(SubjectField::Organization);
        let options = TenancyOptions { certificate_field: field, ..TenancyOptions::default() };
        let headers = [("thanos-tenant", "a")];
        assert!(caller(&options, Hop::Http, &headers).unwrap_err().contains("organization"));
        assert_eq!(caller(&options, Hop::Grpc, &headers).unwrap().tenant.as_deref(), Some("a"));
        let enforced = TenancyOptions { enforce: true, ..options };
        assert!(caller(&enforced, Hop::Grpc, &headers).unwrap_err().contains("organization"));
    }

    #[test]
    fn an_enforced_tenant_is_held_to_its_label() {
        let options = TenancyOptions { enforce: true, ..TenancyOptions::default() };
        for hop in [Hop::Http, Hop::Grpc] {
            let caller = caller(&options, hop, &[("thanos-tenant", "a")]).unwrap();
            assert_eq!(caller.hold, Hold::of_tenant("tenant_id", "a"));
        }
    }
}
