//! The one provider of cryptography for TLS.

/// Installs ring as the process's TLS provider. Call it first thing in `main`; calling it again does nothing.
pub fn init_crypto() {
    // An error means that a provider is installed already, by an earlier call of this very function.
    let _already = rustls::crypto::ring::default_provider().install_default();
}
