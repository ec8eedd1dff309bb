//! The resources that a response names in `Location` and `Content-Location`.

use ::http::header::{HeaderName, LOCATION};
use ::http::{Uri, request::Parts as Request, response::Parts as Response};
use url::{Position, Url};

use super::keys::host_of;
use super::stored::Scheme;

/// Another resource of the same host that the response names, as a client resolves the reference.
pub(super) fn target(request: &Request, response: &Response, name: &HeaderName) -> Option<Uri> {
    // The scheme is no part of a key.
    let (_, named) = resolve("http", request, response, name)?;
    path_of(&named).parse().ok()
}

/// Whether a client that follows the response may send the same request again. To one by another scheme than `scheme`,
/// if that is known, the service answers otherwise.
pub(super) fn leads_to_itself(scheme: Scheme, request: &Request, response: &Response) -> bool {
    let is_https = scheme == Scheme::Https;
    let own_scheme = if is_https { "https" } else { "http" };
    response.status.is_redirection()
        && resolve(own_scheme, request, response, &LOCATION).is_some_and(|(own, named)| {
            let is_known_and_other = scheme != Scheme::Unknown && named.scheme() != own_scheme;
            path_of(&own) == path_of(&named) && !is_known_and_other
        })
}

/// The resource of the request, and the one that its response names, if that is on the same host.
fn resolve(
    scheme: &str,
    request: &Request,
    response: &Response,
    name: &HeaderName,
) -> Option<(Url, Url)> {
    let reference = response.headers.get(name)?.to_str().ok()?;
    let host = match host_of(&request.uri, &request.headers) {
        "" => "unknown.invalid",
        host => host,
    };
    let path = (request.uri.path_and_query()).map_or("/", |path| path.as_str());
    let own = Url::parse(&format!("{scheme}://{host}{path}")).ok()?;
    let named = own.join(reference).ok()?;
    // RFC 9111, section 4.4: of no other host, or a service could have the responses of others invalidated.
    let is_same_host = (named.host(), named.port()) == (own.host(), own.port());
    is_same_host.then_some((own, named))
}

fn path_of(url: &Url) -> &str {
    &url[Position::BeforePath..Position::AfterQuery]
}
