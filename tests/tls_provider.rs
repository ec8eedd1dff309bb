//! Which provider of cryptography TLS uses. One test in each build, as a process has one provider.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use larder::RedisL2;
use rustls::crypto::CryptoProvider;

const URL: &str = "rediss://127.0.0.1:1";

#[cfg(feature = "tls-ring")]
#[test]
fn the_provider_of_the_program_is_kept() {
    let mut own = rustls::crypto::ring::default_provider();
    own.cipher_suites.truncate(1);
    let suites = own.cipher_suites.clone();
    own.install_default().unwrap();
    RedisL2::open(URL).unwrap();
    let provider = CryptoProvider::get_default().unwrap();
    assert_eq!(provider.cipher_suites, suites);
}

/// `tls` alone compiles no provider in, and the other dependencies of the tests do not either.
#[cfg(not(feature = "tls-ring"))]
#[test]
fn without_a_provider_the_server_is_refused() {
    let error = RedisL2::open(URL).unwrap_err().to_string();
    assert!(error.contains("CryptoProvider::install_default"), "{error}");
    assert!(CryptoProvider::get_default().is_none());
}
