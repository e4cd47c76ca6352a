//! Whose fault the end of a connection was, which decides how long to stay away.

use std::io::ErrorKind;

use rumqttc::v5::mqttbytes::v5::ConnectReturnCode as Code;
use rumqttc::v5::{ConnectionError, StateError, TlsError};

use crate::reconnect::Cause;

/// Classify the error that ended a connection or an attempt.
pub(super) fn classify(error: &ConnectionError) -> Cause {
    match error {
        ConnectionError::ConnectionRefused(
            Code::NotAuthorized | Code::BadUserNamePassword | Code::Banned | Code::ClientIdentifierNotValid,
        ) => Cause::Auth,
        ConnectionError::Tls(TlsError::TLS(error)) => of_tls(error),
        ConnectionError::Io(error)
        | ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::MqttState(StateError::Io(error)) => of_io(error),
        _ => Cause::Remote,
    }
}

fn of_io(error: &std::io::Error) -> Cause {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return of_tls(tls);
    }
    match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable => Cause::Local,
        _ => Cause::Remote,
    }
}

fn of_tls(error: &rustls::Error) -> Cause {
    use rustls::{AlertDescription as Alert, Error};
    match error {
        Error::InvalidCertificate(_)
        | Error::NoCertificatesPresented
        | Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => Cause::Auth,
        _ => Cause::Remote,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn a_refused_identity_is_not_retried_like_a_busy_broker() {
        let refused = |code| classify(&ConnectionError::ConnectionRefused(code));
        assert_eq!(refused(Code::NotAuthorized), Cause::Auth);
        assert_eq!(refused(Code::ServerBusy), Cause::Remote);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        assert_eq!(classify(&ConnectionError::Io(Error::new(ErrorKind::InvalidData, alert))), Cause::Auth);
    }

    #[test]
    fn our_own_network_is_told_from_the_brokers() {
        let io = |kind: ErrorKind| classify(&ConnectionError::Io(Error::from(kind)));
        assert_eq!(io(ErrorKind::NetworkUnreachable), Cause::Local);
        assert_eq!(io(ErrorKind::ConnectionRefused), Cause::Remote);
        assert_eq!(io(ErrorKind::ConnectionReset), Cause::Remote);
    }
}
