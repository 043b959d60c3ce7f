//! One HTTP/1.1 connection, kept alive, to one endpoint, with limits on everything that comes back.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Octets of the body of an answer at most; the rest of a longer one is not read.
pub(super) const BODY_MAX_BYTES: usize = 256 << 10;

/// Octets of status line and headers of an answer at most.
const HEAD_MAX_BYTES: usize = 16 << 10;

/// Headers of an answer at most.
const HEADERS_MAX: usize = 64;

/// Port of etcd's clients.
const USUAL_PORT: u16 = 2379;

/// Somebody who answers HTTP.
pub(super) struct Endpoint {
    /// As configured.
    pub(super) name: String,
    host: String,
    port: u16,
    authority: String,
    connection: Option<Connection>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HttpError {
    /// Nothing of the request was sent.
    NotSent(String),
    /// The request, or a part of it, was sent.
    Lost(String),
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    /// `http://HOST[:PORT]`, or that without `http://`.
    pub(super) fn parse(url: &str) -> Result<Endpoint, String> {
        if url.starts_with("https://") {
            return Err("https is not supported".into());
        }
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_authority(authority).ok_or("not of the form http://HOST:PORT")?;
        let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(well_formed) {
            return Err("no host".into());
        }
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let authority = format!("{bracketed}:{port}");
        Ok(Endpoint { name: url.to_owned(), host: host.to_owned(), port, authority, connection: None })
    }

    /// Posts JSON; connecting, sending and the whole answer take no longer than `limit`. What may be asked for twice is, if
    /// the connection that was kept turns out to be closed.
    pub(super) async fn post(
        &mut self,
        path: &str,
        json: String,
        repeatable: bool,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        // Whatever goes wrong, the connection is not used again: a late answer on it would be taken for that of the next
        // request.
        let kept = self.connection.take();
        let sent = AtomicBool::new(false);
        let json = Bytes::from(json);
        let exchange = async {
            if let Some(connection) = kept {
                match self.exchange(connection, path, json.clone(), &sent).await {
                    // It was closed while nobody used it.
                    Err(HttpError::NotSent(_)) => {}
                    Err(HttpError::Lost(_)) if repeatable => {}
                    done => return done,
                }
            }
            self.exchange(self.connect().await?, path, json, &sent).await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok((answer, connection))) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(e)) => Err(e),
            Err(_) if sent.load(Ordering::Relaxed) => {
                Err(HttpError::Lost(format!("no answer within {limit:?}")))
            }
            Err(_) => Err(HttpError::NotSent(format!("no connection within {limit:?}"))),
        }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        path: &str,
        json: Bytes,
        sent: &AtomicBool,
    ) -> Result<((StatusCode, Bytes), Connection), HttpError> {
        let response = self.try_send(&mut connection, path, json, sent).await?;
        Ok((read(response).await?, connection))
    }

    async fn connect(&self) -> Result<Connection, HttpError> {
        let not_sent = |e: &dyn Error| HttpError::NotSent(format!("cannot connect: {}", text(e)));
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| not_sent(&e))?;
        stream.set_nodelay(true).map_err(|e| not_sent(&e))?;
        let handshake = http1::Builder::new()
            .max_buf_size(HEAD_MAX_BYTES)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|e| not_sent(&e))?;
        let task = tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!("connection to the lease store: {}", text(&e));
            }
        });
        Ok(Connection { sender, task })
    }

    async fn try_send(
        &self,
        connection: &mut Connection,
        path: &str,
        json: Bytes,
        sent: &AtomicBool,
    ) -> Result<Response<Incoming>, HttpError> {
        let request = Request::post(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(json))
            .map_err(|e| HttpError::NotSent(text(&e)))?;
        connection.sender.ready().await.map_err(|e| HttpError::NotSent(text(&e)))?;
        sent.store(true, Ordering::Relaxed);
        connection.sender.try_send_request(request).await.map_err(|mut e| {
            let untouched = e.take_message().is_some();
            let why = text(e.error());
            if untouched {
                sent.store(false, Ordering::Relaxed);
                HttpError::NotSent(why)
            } else {
                HttpError::Lost(why)
            }
        })
    }
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), HttpError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_MAX_BYTES).collect().await;
    let body = body.map_err(|e| HttpError::Lost(format!("answer: {}", text(e.as_ref()))))?;
    Ok((status, body.to_bytes()))
}

/// An error and what is behind it.
fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn split_authority(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, rest)
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        authority.split_at(end)
    };
    match port.strip_prefix(':') {
        Some(port) => Some((host, port.parse().ok().filter(|&port| port != 0)?)),
        None if port.is_empty() => Some((host, USUAL_PORT)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let rows = [
            ("http://10.0.0.1:2379", "10.0.0.1:2379"),
            ("http://etcd-1.example.com", "etcd-1.example.com:2379"),
            ("http://[2001:db8::1]:4000/", "[2001:db8::1]:4000"),
            ("http://[2001:db8::1]", "[2001:db8::1]:2379"),
            ("10.0.0.1:2379", "10.0.0.1:2379"),
        ];
        for (url, authority) in rows {
            let endpoint = Endpoint::parse(url);
            assert_eq!(endpoint.map(|endpoint| endpoint.authority), Ok(authority.to_owned()), "{url}");
        }
        for url in [
            "",
            "http://",
            "https://a:1",
            "http://a:0",
            "http://a:65536",
            "http://a:b",
            "http://a/v3",
            "http://a:1/v3",
            "http://[::1",
            "http://[::1]x",
            "http://[x]:1",
            "http://a b",
            "http://a\r\nb",
            "ftp://a",
            "2001:db8::1",
        ] {
            assert!(Endpoint::parse(url).is_err(), "{url:?}");
        }
    }
}
