//! Who may come in: programs on this machine, and no web page that a browser on it happens to show.
//!
//! A page of somebody else's can make a browser send requests to loopback; it cannot forge what the browser says of
//! them. A name that others may point at this machine is refused in `Host` (DNS rebinding), a request on behalf of
//! another site by its `Origin` and `Sec-Fetch-Site`.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, header};

use super::Refusal;

/// How long any answer may take: longer than a transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(75);

/// Under which hosts we may be addressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard {
    /// Any literal address, or only loopback ones?
    any_address: bool,
}

impl Guard {
    pub(super) fn of(bound: SocketAddr) -> Self {
        Self { any_address: !bound.ip().is_loopback() }
    }

    /// Names can be pointed at us by others; literal addresses cannot.
    fn knows(self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => self.any_address || address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }

    fn judge(self, uri: &http::Uri, headers: &HeaderMap) -> Result<(), &'static str> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let named = text(header::HOST).or(uri.authority().map(Authority::as_str)).unwrap_or_default();
        let host = named.parse::<Authority>().map_err(|_| "no host is named")?;
        if headers.get_all(header::HOST).iter().count() > 1 || !self.knows(host.host()) {
            return Err("this host name is not ours: use 127.0.0.1 or localhost");
        }
        if let Some(origin) = text(header::ORIGIN) {
            let same = origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host.as_str()));
            if !same {
                return Err("requests on behalf of another site are refused");
            }
        }
        let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
        match site {
            None | Some(b"none" | b"same-origin") => Ok(()),
            Some(_) => Err("requests on behalf of another site are refused"),
        }
    }
}

pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if let Err(why) = guard.judge(request.uri(), request.headers()) {
        tracing::warn!(path = request.uri().path(), why, "operator's request refused");
        return Refusal(StatusCode::FORBIDDEN, why.to_owned()).into_response();
    }
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal(StatusCode::GATEWAY_TIMEOUT, "it took too long".to_owned()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(bound: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Guard::of(bound.parse().unwrap()).judge(&"/status".parse().unwrap(), &map).is_ok()
    }

    #[test]
    fn only_this_machines_names_are_ours() {
        let loopback = "127.0.0.1:7935";
        for host in ["127.0.0.1:7935", "localhost", "LocalHost:1", "[::1]:7935", "127.0.0.9"] {
            assert!(judged(loopback, &[("host", host)]), "{host}");
        }
        for host in ["evil.example", "evil.example:7935", "localhost.evil.example", "192.0.2.1", "", "a b", "0.0.0.0"] {
            assert!(!judged(loopback, &[("host", host)]), "{host}");
        }
        assert!(!judged(loopback, &[]), "somebody must be named");
        assert!(!judged(loopback, &[("host", "localhost"), ("host", "localhost")]));
        assert!(judged("0.0.0.0:7935", &[("host", "192.0.2.1:7935")]));
        assert!(!judged("0.0.0.0:7935", &[("host", "evil.example")]));
    }

    #[test]
    fn a_page_of_another_site_is_refused_whatever_it_asks() {
        let with = |name, value| judged("127.0.0.1:7935", &[("host", "127.0.0.1:7935"), (name, value)]);
        assert!(with("origin", "http://127.0.0.1:7935"));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:7935"] {
            assert!(!with("origin", origin), "{origin}");
        }
        assert!(with("sec-fetch-site", "none") && with("sec-fetch-site", "same-origin"));
        assert!(!with("sec-fetch-site", "cross-site") && !with("sec-fetch-site", "same-site"));
    }
}
