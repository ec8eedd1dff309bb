//! TLS by rustls: whether its settings can work, and why a handshake has failed.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::panic::catch_unwind;
use std::sync::Arc;

use deadpool_redis::redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisError};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error as TlsError};

use crate::l2::L2Error;

/// Why this build cannot use TLS, if it cannot.
pub(super) const MISSING: Option<&str> = None;

/// Refuses an address whose TLS settings cannot work. Without this, each attempt to connect would fail, or panic if the
/// process has no default provider of cryptography.
pub(super) fn check(addr: &ConnectionAddr) -> Result<(), L2Error> {
    let mut nowhere = addr.clone();
    let ConnectionAddr::TcpTls { host, .. } = &mut nowhere else {
        return Ok(());
    };
    // Without a provider of the process, rustls installs the one that is compiled in. If there is none, or more than
    // one, rustls panics, and gives no other way to find out.
    if CryptoProvider::get_default().is_none() && catch_unwind(ClientConfig::builder).is_err() {
        let what = "rustls has no provider of cryptography, or several and none is installed: call CryptoProvider::install_default first, or enable the feature `tls-ring` of larder if there is none";
        return Err(L2Error::bad_config(what));
    }
    if ServerName::try_from(host.as_str()).is_err() {
        let what = "the host of the Redis address cannot be the name in a certificate";
        return Err(L2Error::bad_config(what));
    }
    // The client has no check of its own. It sets TLS up before it looks at the host, and looks at the host before it
    // connects: so with an empty host it gets as far as TLS, and no further.
    host.clear();
    let set_up = nowhere
        .into_connection_info()
        .and_then(Client::open)
        .and_then(|client| client.get_connection());
    match set_up {
        Err(error) if find::<InvalidDnsNameError>(&error).is_none() => {
            let what = format!("the TLS settings for Redis cannot work: {error}");
            Err(L2Error::bad_config(what))
        }
        _ => Ok(()),
    }
}

/// Why a handshake has failed, if the error is one.
pub(crate) fn failure(error: &RedisError) -> Option<&'static str> {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let error = find::<TlsError>(error)?;
    Some(match error {
        TlsError::InvalidCertificate(UnknownIssuer) => {
            "no trusted authority has signed the server's certificate; if it is your own, give its certificate as root_cert"
        }
        TlsError::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "the server's certificate is for another host than that of the address"
        }
        TlsError::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "the server's certificate has expired"
        }
        TlsError::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet; is the clock right?"
        }
        TlsError::InvalidCertificate(_) => "the server's certificate is not accepted",
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server asks for a client certificate; give one as client_tls"
        }
        TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::CertificateUnknown,
        ) => "the server does not accept the client certificate",
        TlsError::AlertReceived(AlertDescription::CertificateExpired) => {
            "the client certificate has expired"
        }
        TlsError::InvalidMessage(_) => "the server does not speak TLS at this port",
        _ => "the handshake failed",
    })
}

/// The first error of this type in a chain of sources.
fn find<E: Error + 'static>(error: &RedisError) -> Option<&E> {
    let first: &(dyn Error + 'static) = error;
    successors(Some(first), |&error| inner(error)).find_map(|error| error.downcast_ref())
}

/// The error inside another one. `source` of a shared error and of an `io::Error` skips it.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as _),
        None => error.source(),
    }
}
