//! What a request over TCP must show: that it means this host, and that its sender could read the token.
//!
//! A page in a browser can send requests to loopback addresses, and with DNS rebinding even under its own
//! origin; it can neither forge `Host` and `Origin` nor know the token.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::answer::refuse;
use super::door::Ticket;
use super::types::ErrorBody;
use crate::node::ErrorKind;

/// Why a request is refused.
type Refusal = (StatusCode, &'static str);

/// What requests are held to.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    hosts: Vec<String>,
    token: String,
}

impl Guard {
    /// For an interface on `address`.
    pub(super) fn new(address: SocketAddr, token: String) -> Self {
        let port = address.port();
        let hosts = vec![
            address.to_string(),
            format!("localhost:{port}"),
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
        ];
        Self { hosts, token }
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        check_once(headers)?;
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let known = |host: &str| self.hosts.iter().any(|other| other.eq_ignore_ascii_case(host));
        // What the address itself says comes before the header.
        let is_elsewhere = uri.authority().is_some_and(|authority| !known(authority.as_str()));
        if is_elsewhere || !text(header::HOST).is_some_and(known) {
            return Err((StatusCode::FORBIDDEN, "the request is for another host"));
        }
        if headers.contains_key(header::ORIGIN)
            && !text(header::ORIGIN).and_then(|origin| origin.strip_prefix("http://")).is_some_and(known)
        {
            return Err((StatusCode::FORBIDDEN, "the request comes from another site"));
        }
        let token = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        // Hashes are compared, so that the time it takes tells nothing of the token.
        if token.map(|token| blake3::hash(token.as_bytes())) != Some(blake3::hash(self.token.as_bytes())) {
            return Err((StatusCode::UNAUTHORIZED, "the token in the node's file http-token is needed"));
        }
        Ok(())
    }
}

/// Headers that say who is meant and who asks may stand once at most: of two, a proxy might read the other one.
fn check_once(headers: &HeaderMap) -> Result<(), Refusal> {
    match [header::HOST, header::ORIGIN, header::AUTHORIZATION]
        .into_iter()
        .all(|name| headers.get_all(name).iter().count() <= 1)
    {
        true => Ok(()),
        false => Err((StatusCode::BAD_REQUEST, "a header is there twice that says who is meant, or who asks")),
    }
}

/// Lets a request pass that was found good, or refuses it.
async fn pass(checked: Result<(), Refusal>, request: Request, next: Next) -> Response {
    match checked {
        Ok(()) => {
            if let Some(ticket) = request.extensions().get::<Arc<Ticket>>() {
                ticket.prove();
            }
            next.run(request).await
        }
        Err((status, message)) => refuse(status, ErrorBody { kind: ErrorKind::Usage, message: message.to_owned() }),
    }
}

/// What requests over the Unix socket are held to: the system says whose they are.
pub(super) async fn guard_local(request: Request, next: Next) -> Response {
    pass(check_once(request.headers()), request, next).await
}

/// Lets a request over TCP pass or refuses it.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = pass(guard.check(request.uri(), request.headers()), request, next).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(header::HeaderName, &str)]) -> Result<(), StatusCode> {
        check_at("/v1/status", pairs)
    }

    fn check_at(uri: &str, pairs: &[(header::HeaderName, &str)]) -> Result<(), StatusCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), value.parse().unwrap());
        }
        let guard = Guard::new("127.0.0.1:8080".parse().unwrap(), "secret".to_owned());
        guard.check(&uri.parse().unwrap(), &headers).map_err(|(status, _)| status)
    }

    const TOKEN: (header::HeaderName, &str) = (header::AUTHORIZATION, "Bearer secret");

    #[test]
    fn the_owner_passes() {
        for host in ["127.0.0.1:8080", "LOCALHOST:8080", "[::1]:8080"] {
            assert_eq!(check(&[(header::HOST, host), TOKEN]), Ok(()), "{host}");
        }
        assert_eq!(
            check(&[(header::HOST, "localhost:8080"), (header::ORIGIN, "http://localhost:8080"), TOKEN]),
            Ok(())
        );
    }

    #[test]
    fn dns_rebinding_and_foreign_pages_do_not() {
        for host in ["evil.example:8080", "127.0.0.1", "127.0.0.1:80", ""] {
            assert_eq!(check(&[(header::HOST, host), TOKEN]), Err(StatusCode::FORBIDDEN), "{host}");
        }
        for origin in ["http://evil.example", "null", "https://127.0.0.1:8080", "http://127.0.0.1:8080.evil.example"] {
            let pairs = [(header::HOST, "127.0.0.1:8080"), (header::ORIGIN, origin), TOKEN];
            assert_eq!(check(&pairs), Err(StatusCode::FORBIDDEN), "{origin}");
        }
        assert_eq!(check(&[TOKEN]), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn two_of_a_header_do_not_nor_an_address_elsewhere() {
        const HOST: (header::HeaderName, &str) = (header::HOST, "127.0.0.1:8080");
        for twice in [HOST, (header::HOST, "evil.example"), (header::ORIGIN, "null"), TOKEN] {
            let pairs = [HOST, (header::ORIGIN, "http://127.0.0.1:8080"), TOKEN, twice.clone()];
            assert_eq!(check(&pairs), Err(StatusCode::BAD_REQUEST), "{twice:?}");
        }
        assert_eq!(check_at("http://evil.example/v1/status", &[HOST, TOKEN]), Err(StatusCode::FORBIDDEN));
        assert_eq!(check_at("http://127.0.0.1:8080/v1/status", &[HOST, TOKEN]), Ok(()));
    }

    #[test]
    fn a_wrong_token_or_none_does_not() {
        for token in ["", "Bearer ", "Bearer wrong", "secret", "Basic secret"] {
            let pairs = [(header::HOST, "127.0.0.1:8080"), (header::AUTHORIZATION, token)];
            assert_eq!(check(&pairs), Err(StatusCode::UNAUTHORIZED), "{token:?}");
        }
    }
}
