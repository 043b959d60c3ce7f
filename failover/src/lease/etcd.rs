//! etcd as a store of registers, by its JSON gateway: POST /v3/kv/range and /v3/kv/txn (etcd documentation, "Interacting with
//! the cluster: gRPC gateway"). None of etcd's own leases is used: how long a lease is good is counted by those who hold it.

use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::http::{Endpoint, HttpError};
use super::machine::{StoreAnswer, StoreOp};
use super::store::{Expect, StoreError, Swap, Versioned};

/// Octets of a key at most.
pub const KEY_MAX_BYTES: usize = 1 << 10;

/// Octets of a value at most.
pub const VALUE_MAX_BYTES: usize = 64 << 10;

/// Octets of an answer that are repeated in an error at most.
const QUOTE_MAX_BYTES: usize = 200;

/// Registers in one etcd cluster.
///
/// The member that answered last is asked first, then the others in their order, each for no longer than the time said. A
/// read goes on to the next member whatever is wrong with one; a change only as long as nothing of it was sent. A future that is
/// dropped before it is ready leaves a change as [`StoreError::Unknown`] does.
pub struct EtcdStore {
    endpoints: Vec<Endpoint>,
    first: usize,
    attempt_timeout: Duration,
    cluster: Option<u64>,
    revision: i64,
}

impl EtcdStore {
    /// A store that is reached by any of these endpoints, `http://HOST[:PORT]`. Addresses are better than names: looking up a
    /// name may take longer than the store.
    ///
    /// # Errors
    /// No endpoint, or one that is none.
    pub fn new(endpoints: &[String], attempt_timeout: Duration) -> Result<EtcdStore, StoreError> {
        let parse = |url: &String| {
            Endpoint::parse(url).map_err(|why| StoreError::Endpoint { endpoint: url.clone(), why })
        };
        let endpoints = endpoints.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(StoreError::Endpoint { endpoint: String::new(), why: "none is configured".into() });
        }
        Ok(EtcdStore { endpoints, first: 0, attempt_timeout, cluster: None, revision: 0 })
    }

    /// The cluster that has answered, or that is expected to.
    pub fn cluster(&self) -> Option<u64> {
        self.cluster
    }

    /// Only this cluster is to answer: what is remembered from an earlier run.
    pub fn expect_cluster(&mut self, cluster: u64) {
        self.cluster = Some(cluster);
    }

    /// What a register holds. The answer is as new as the question: etcd's reads are linearizable unless others are asked
    /// for, and none are here.
    ///
    /// # Errors
    /// Never [`StoreError::Unknown`].
    pub async fn read(&mut self, key: &str) -> Result<Option<Versioned>, StoreError> {
        check_key(key)?;
        let request = json!({ "key": BASE64.encode(key) }).to_string();
        let mut failures = Vec::new();
        for index in self.order() {
            let failure = match self.post(index, RANGE, request.clone(), true).await {
                Ok((StatusCode::OK, body)) => match parse::<RangeAnswer>(&body) {
                    Ok(answer) => {
                        let value = one_value(&answer.kvs, key);
                        self.accept(index, &answer.header)?;
                        value
                    }
                    Err(why) => Err(why),
                },
                Ok((status, body)) => Err(refusal(status, &body)),
                Err(HttpError::NotSent(why) | HttpError::Lost(why)) => Err(why),
            };
            match failure {
                Ok(value) => return Ok(value),
                Err(why) => failures.push(format!("{}: {why}", self.endpoints[index].name)),
            }
        }
        Err(StoreError::NotDone { why: failures.join("; ") })
    }

    /// What a lease asks of a register.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`swap`](Self::swap).
    pub async fn carry_out(&mut self, key: &str, op: &StoreOp) -> Result<StoreAnswer, StoreError> {
        let stored = |v: Option<Versioned>| v.map(|v| (v.value, v.revision));
        match op {
            StoreOp::Read => Ok(StoreAnswer::Value(stored(self.read(key).await?))),
            StoreOp::Swap { expected, value } => match self.swap(key, expected.clone(), value).await? {
                Swap::Done { revision } => Ok(StoreAnswer::Swapped(revision)),
                Swap::Conflict { current } => Ok(StoreAnswer::Conflict(stored(current))),
            },
        }
    }

    /// Writes a register if it holds what is expected.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]: it may have been written, or may yet be.
    pub async fn swap(&mut self, key: &str, expected: Expect, value: &[u8]) -> Result<Swap, StoreError> {
        if value.len() > VALUE_MAX_BYTES {
            let why = format!("a value of {} octets, {VALUE_MAX_BYTES} are allowed", value.len());
            return Err(StoreError::NotDone { why });
        }
        let put = json!({ "request_put": { "key": BASE64.encode(key), "value": BASE64.encode(value) } });
        self.transact(key, expected, &put).await
    }

    /// Empties a register if it holds what is expected.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]: it may have been emptied, or may yet be.
    pub async fn delete(&mut self, key: &str, expected: Expect) -> Result<Swap, StoreError> {
        let delete = json!({ "request_delete_range": { "key": BASE64.encode(key) } });
        self.transact(key, expected, &delete).await
    }

    async fn transact(
        &mut self,
        key: &str,
        expected: Expect,
        change: &serde_json::Value,
    ) -> Result<Swap, StoreError> {
        check_key(key)?;
        let encoded = BASE64.encode(key);
        let is_at = |revision: i64| json!({ "key": encoded, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() });
        let compare = match expected {
            // A key that is not there has this revision.
            Expect::Absent => vec![is_at(0)],
            Expect::Revision(revision) => vec![is_at(revision)],
            Expect::Value { revision, value } => {
                let value = BASE64.encode(value);
                let is_it = json!({ "key": encoded, "target": "VALUE", "result": "EQUAL", "value": value });
                vec![is_at(revision), is_it]
            }
        };
        let request = json!({
            "compare": compare,
            "success": [change],
            "failure": [{ "request_range": { "key": encoded } }],
        })
        .to_string();
        let mut failures = Vec::new();
        for index in self.order() {
            let name = self.endpoints[index].name.clone();
            match self.post(index, TXN, request.clone(), false).await {
                Ok((StatusCode::OK, body)) => {
                    let unknown = |why| StoreError::Unknown { endpoint: name.clone(), why };
                    let answer = parse::<TxnAnswer>(&body).map_err(unknown)?;
                    self.accept(index, &answer.header)?;
                    return outcome(&answer, key).map_err(unknown);
                }
                Ok((status, body)) => {
                    let why = refusal(status, &body);
                    // Refused before it was proposed to the cluster, by every other status nobody knows.
                    if !is_definite(status) {
                        return Err(StoreError::Unknown { endpoint: name, why });
                    }
                    failures.push(format!("{name}: {why}"));
                }
                Err(HttpError::NotSent(why)) => failures.push(format!("{name}: {why}")),
                Err(HttpError::Lost(why)) => return Err(StoreError::Unknown { endpoint: name, why }),
            }
        }
        Err(StoreError::NotDone { why: failures.join("; ") })
    }

    /// In which order the endpoints are asked.
    fn order(&self) -> Vec<usize> {
        let count = self.endpoints.len();
        (0..count).map(|step| (self.first + step) % count).collect()
    }

    async fn post(
        &mut self,
        index: usize,
        path: &str,
        request: String,
        repeatable: bool,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let answer = self.endpoints[index].post(path, request, repeatable, self.attempt_timeout).await;
        let answered = answer.as_ref().is_ok_and(|(status, _)| !status.is_server_error());
        // The next question begins with one that answers, or at least not with one that has just not answered.
        self.first = if answered { index } else { (index + 1) % self.endpoints.len() };
        answer
    }

    /// Whether this is the cluster of before, and knows all that it has said before.
    fn accept(&mut self, index: usize, header: &Header) -> Result<(), StoreError> {
        let endpoint = || self.endpoints[index].name.clone();
        let expected = self.cluster.unwrap_or(header.cluster_id);
        if header.cluster_id != expected {
            return Err(StoreError::OtherCluster {
                endpoint: endpoint(),
                expected,
                found: header.cluster_id,
            });
        }
        if header.revision < self.revision {
            let (seen, found) = (self.revision, header.revision);
            return Err(StoreError::WentBack { endpoint: endpoint(), seen, found });
        }
        (self.cluster, self.revision) = (Some(expected), header.revision);
        Ok(())
    }
}

const RANGE: &str = "/v3/kv/range";
const TXN: &str = "/v3/kv/txn";

/// Head of every answer. The gateway writes 64-bit numbers as strings.
#[derive(Deserialize)]
struct Header {
    #[serde(deserialize_with = "number")]
    cluster_id: u64,
    #[serde(deserialize_with = "number")]
    revision: i64,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(deserialize_with = "number")]
    mod_revision: i64,
    /// Left out if it is empty, as all fields are.
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct RangeAnswer {
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct TxnAnswer {
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    response_range: Option<Range>,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

/// What is said with a status that is not 200.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

fn number<'de, D: Deserializer<'de>, T: FromStr + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number<T> {
        Plain(T),
        Text(String),
    }
    match Number::deserialize(deserializer)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(|_| serde::de::Error::custom("not a number")),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| format!("an answer that cannot be read: {e}: {}", quote(body)))
}

fn outcome(answer: &TxnAnswer, key: &str) -> Result<Swap, String> {
    if answer.succeeded {
        return Ok(Swap::Done { revision: answer.header.revision });
    }
    let range = answer.responses.first().and_then(|response| response.response_range.as_ref());
    let range = range.ok_or("an answer that does not say what there is instead")?;
    Ok(Swap::Conflict { current: one_value(&range.kvs, key)? })
}

fn one_value(kvs: &[KeyValue], key: &str) -> Result<Option<Versioned>, String> {
    let [found] = kvs else {
        return if kvs.is_empty() { Ok(None) } else { Err("an answer with several values".into()) };
    };
    if BASE64.decode(&found.key).ok().as_deref() != Some(key.as_bytes()) {
        return Err("an answer with the value of another key".into());
    }
    let value =
        BASE64.decode(&found.value).map_err(|e| format!("an answer with a value that is none: {e}"))?;
    if found.mod_revision <= 0 || value.len() > VALUE_MAX_BYTES {
        return Err("an answer with an impossible value".into());
    }
    Ok(Some(Versioned { value, revision: found.mod_revision }))
}

/// Statuses of the gateway for refusals that come before a change is proposed: malformed, not allowed, unknown path, too many
/// requests or no space.
fn is_definite(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::TOO_MANY_REQUESTS
    )
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let message = serde_json::from_slice::<Refusal>(body).map(|refusal| quote(refusal.message.as_bytes()));
    format!("{status}: {}", message.unwrap_or_else(|_| quote(body)))
}

/// The beginning, without what would spoil a log.
fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..QUOTE_MAX_BYTES).unwrap_or(bytes));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn check_key(key: &str) -> Result<(), StoreError> {
    if (1..=KEY_MAX_BYTES).contains(&key.len()) {
        return Ok(());
    }
    let why = format!("a key of {} octets, 1 to {KEY_MAX_BYTES} are allowed", key.len());
    Err(StoreError::NotDone { why })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        r#""header":{"cluster_id":"14841639068965178418","member_id":"1","revision":"7","raft_term":"2"}"#;

    fn range(rest: &str) -> Result<Option<Versioned>, String> {
        let body = format!("{{{HEADER}{rest}}}");
        parse::<RangeAnswer>(body.as_bytes()).and_then(|answer| one_value(&answer.kvs, "k"))
    }

    fn txn(rest: &str) -> Result<Swap, String> {
        let body = format!("{{{HEADER}{rest}}}");
        parse::<TxnAnswer>(body.as_bytes()).and_then(|answer| outcome(&answer, "k"))
    }

    #[test]
    fn answers_of_a_read() {
        assert_eq!(range(""), Ok(None));
        let kv = r#","kvs":[{"key":"aw==","create_revision":"2","mod_revision":"7","version":"3","value":"dmFs"}],"count":"1""#;
        assert_eq!(range(kv), Ok(Some(Versioned { value: b"val".to_vec(), revision: 7 })));
        let empty = r#","kvs":[{"key":"aw==","mod_revision":7}]"#;
        assert_eq!(range(empty), Ok(Some(Versioned { value: vec![], revision: 7 })));
        for hostile in [
            r#","kvs":[{"key":"aw==","value":"dmFs"}]"#,
            r#","kvs":[{"key":"aw==","mod_revision":"0","value":"dmFs"}]"#,
            r#","kvs":[{"key":"aw==","mod_revision":"-1","value":"dmFs"}]"#,
            r#","kvs":[{"key":"aw==","mod_revision":"9223372036854775808"}]"#,
            r#","kvs":[{"key":"bw==","mod_revision":"7"}]"#,
            r#","kvs":[{"key":"a","mod_revision":"7"}]"#,
            r#","kvs":[{"key":"aw==","mod_revision":"7","value":"%"}]"#,
            r#","kvs":[{"key":"aw==","mod_revision":"7"},{"key":"aw==","mod_revision":"7"}]"#,
            r#","kvs":{}"#,
            r#","kvs":null"#,
            ",",
        ] {
            assert!(range(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn answers_of_a_change() {
        assert_eq!(
            txn(r#","succeeded":true,"responses":[{"response_put":{}}]"#),
            Ok(Swap::Done { revision: 7 })
        );
        let absent = r#","responses":[{"response_range":{"header":{"revision":"7"}}}]"#;
        assert_eq!(txn(absent), Ok(Swap::Conflict { current: None }));
        let other =
            r#","responses":[{"response_range":{"kvs":[{"key":"aw==","mod_revision":"5","value":"eA=="}]}}]"#;
        let current = Some(Versioned { value: b"x".to_vec(), revision: 5 });
        assert_eq!(txn(other), Ok(Swap::Conflict { current }));
        for hostile in ["", r#","responses":[]"#, r#","responses":[{}]"#, r#","succeeded":"yes""#] {
            assert!(txn(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn answers_without_a_cluster_are_refused() {
        for body in
            ["", "{}", "[]", "null", r#"{"header":{}}"#, r#"{"header":{"cluster_id":"x","revision":"1"}}"#]
        {
            assert!(parse::<RangeAnswer>(body.as_bytes()).is_err(), "{body}");
            assert!(parse::<TxnAnswer>(body.as_bytes()).is_err(), "{body}");
        }
    }

    fn store() -> EtcdStore {
        EtcdStore::new(&["127.0.0.1:1".into(), "127.0.0.1:2".into()], Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn another_cluster_and_one_that_forgot_are_noticed() {
        let mut store = store();
        assert_eq!(store.accept(0, &Header { cluster_id: 1, revision: 7 }), Ok(()));
        assert_eq!(store.accept(1, &Header { cluster_id: 1, revision: 7 }), Ok(()));
        assert_eq!(store.accept(1, &Header { cluster_id: 1, revision: 9 }), Ok(()));
        let endpoint = "127.0.0.1:1".to_owned();
        let back = StoreError::WentBack { endpoint: endpoint.clone(), seen: 9, found: 8 };
        assert_eq!(store.accept(0, &Header { cluster_id: 1, revision: 8 }), Err(back));
        let other = StoreError::OtherCluster { endpoint, expected: 1, found: 2 };
        assert_eq!(store.accept(0, &Header { cluster_id: 2, revision: 99 }), Err(other));
        assert_eq!(store.cluster(), Some(1));
    }

    #[test]
    fn a_cluster_that_is_remembered_is_insisted_on() {
        let mut store = store();
        store.expect_cluster(5);
        let result = store.accept(0, &Header { cluster_id: 1, revision: 7 });
        assert!(matches!(result, Err(StoreError::OtherCluster { expected: 5, found: 1, .. })));
    }

    #[test]
    fn errors_repeat_a_little_of_what_came() {
        let long = vec![b'x'; 10 << 10];
        assert!(refusal(StatusCode::BAD_GATEWAY, &long).len() < 300);
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"a\nb\x1b"), "502 Bad Gateway: a b ");
        let json = br#"{"error":"e","code":14,"message":"etcdserver: no leader"}"#;
        assert_eq!(
            refusal(StatusCode::SERVICE_UNAVAILABLE, json),
            "503 Service Unavailable: etcdserver: no leader"
        );
    }
}
