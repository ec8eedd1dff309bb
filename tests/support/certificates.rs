//! Certificates of a test's own, and servers that have them.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::support::redis_server::{RedisServer, ReservedPort};

/// A certificate and its key, in PEM.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) struct Authority {
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let name = format!("authority {:016x}", fastrand::u64(..));
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    pub(crate) fn sign(&self, name: &str) -> Signed {
        self.sign_with(&params(name))
    }

    pub(crate) fn sign_expired(&self, name: &str) -> Signed {
        let mut params = params(name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign_with(&params)
    }

    fn sign_with(&self, params: &CertificateParams) -> Signed {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed {
            certificate,
            key: key.serialize_pem(),
        }
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The arguments of a server with this certificate, and the directory of their files, which it reads when it starts.
pub(crate) fn arguments(authority: &Authority, signed: &Signed) -> (PathBuf, [String; 6]) {
    let dir = std::env::temp_dir().join(format!("larder-tls-{:016x}", fastrand::u64(..)));
    fs::create_dir(&dir).unwrap();
    let write = |name: &str, pem: &str| {
        let path = dir.join(name);
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let arguments = [
        "--tls-cert-file".to_owned(),
        write("server.pem", &signed.certificate),
        "--tls-key-file".to_owned(),
        write("server.key", &signed.key),
        "--tls-ca-cert-file".to_owned(),
        write("ca.pem", &authority.certificate),
    ];
    (dir, arguments)
}

/// A server that speaks TLS at one port, and is asked by the test itself at another.
pub(crate) struct TlsServer {
    _plain: RedisServer,
    port: ReservedPort,
}

impl TlsServer {
    pub(crate) async fn start(
        authority: &Authority,
        signed: &Signed,
        asks_for_certificates: bool,
    ) -> Self {
        let port = ReservedPort::new();
        let (dir, certificates) = arguments(authority, signed);
        let mut all: Vec<_> = certificates.iter().map(String::as_str).collect();
        let number = port.number.to_string();
        let asks = if asks_for_certificates { "yes" } else { "no" };
        all.extend(["--tls-port", &number, "--tls-auth-clients", asks]);
        let plain = RedisServer::start_with(&all).await;
        fs::remove_dir_all(&dir).unwrap();
        Self {
            _plain: plain,
            port,
        }
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port.number)
    }
}
