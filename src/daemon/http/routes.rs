//! The paths, and what is answered on them: 200 or 503 in the head for proxies, JSON in the body for people and monitoring.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Query};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use model::status::json;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::roles::{Question, RoleBody, RoleFacts};
use crate::daemon::settings::Size;

/// Every resource that is up, at the moment of the request, with which it travels.
#[derive(Debug)]
pub struct Picture(pub Vec<RoleFacts>);

/// What a path asks for.
#[derive(Clone, Copy)]
enum Endpoint {
    Ask(Question),
    /// A control loop that is behind does not answer, as it is the one that answers.
    Liveness,
    Status,
}

/// Paths without their slash: those of failover 8.6, and the other names that Patroni has for them.
const ENDPOINTS: &[(&str, Endpoint)] = &[
    ("", Endpoint::Ask(Question::Primary)),
    ("primary", Endpoint::Ask(Question::Primary)),
    ("leader", Endpoint::Ask(Question::Primary)),
    ("master", Endpoint::Ask(Question::Primary)),
    ("read-write", Endpoint::Ask(Question::Primary)),
    ("replica", Endpoint::Ask(Question::Replica)),
    ("read-only", Endpoint::Ask(Question::ReadOnly)),
    ("read-only-sync", Endpoint::Ask(Question::ReadOnlySync)),
    ("read-only-async", Endpoint::Ask(Question::ReadOnlyAsync)),
    ("sync", Endpoint::Ask(Question::Sync)),
    ("synchronous", Endpoint::Ask(Question::Sync)),
    ("async", Endpoint::Ask(Question::Async)),
    ("asynchronous", Endpoint::Ask(Question::Async)),
    ("standby-leader", Endpoint::Ask(Question::StandbyLeader)),
    ("standby_leader", Endpoint::Ask(Question::StandbyLeader)),
    ("health", Endpoint::Ask(Question::Health)),
    ("readiness", Endpoint::Ask(Question::Readiness)),
    ("liveness", Endpoint::Liveness),
    ("status", Endpoint::Status),
    ("patroni", Endpoint::Status),
];

/// What may stand behind the question mark; the rest is ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    resource: Option<String>,
    lag: Option<String>,
}

/// Nothing is changed from here.
const READS: MethodFilter = MethodFilter::GET.or(MethodFilter::HEAD).or(MethodFilter::OPTIONS);

/// All paths. Every request has to carry an `Arc<Picture>`.
pub fn router() -> Router {
    Router::new()
        .route("/", on(READS, of_the_root))
        .route("/{endpoint}", on(READS, of_all))
        .route("/{resource}/{endpoint}", on(READS, of_one))
        .fallback(of_nothing)
}

async fn of_the_root(
    method: Method,
    picture: Extension<Arc<Picture>>,
    Query(asked): Query<Asked>,
) -> Response {
    answer(&method, &picture, "", &asked)
}

async fn of_all(
    method: Method,
    picture: Extension<Arc<Picture>>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    answer(&method, &picture, &name, &asked)
}

async fn of_one(
    method: Method,
    picture: Extension<Arc<Picture>>,
    Path((resource, name)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    answer(&method, &picture, &name, &Asked { resource: Some(resource), ..asked })
}

async fn of_nothing(method: Method) -> Response {
    refusal(&method, StatusCode::NOT_FOUND, "no such path")
}

fn answer(method: &Method, picture: &Picture, name: &str, asked: &Asked) -> Response {
    let Some((_, endpoint)) = ENDPOINTS.iter().find(|(known, _)| *known == name) else {
        return refusal(method, StatusCode::NOT_FOUND, "no such path");
    };
    let lag_bytes_max = match asked.lag.as_deref().map(str::parse::<Size>).transpose() {
        Ok(size) => size.map(|s| s.0),
        // Not 503: whoever wrote the check has to learn that it never holds.
        Err(why) => return refusal(method, StatusCode::BAD_REQUEST, &format!("lag: {why}")),
    };
    let wanted = |facts: &&RoleFacts| asked.resource.as_ref().is_none_or(|name| facts.snapshot.name == *name);
    let chosen: Vec<&RoleFacts> = picture.0.iter().filter(wanted).collect();
    let holds = match endpoint {
        Endpoint::Ask(question) => {
            !chosen.is_empty() && chosen.iter().all(|facts| question.holds(facts, lag_bytes_max))
        }
        Endpoint::Liveness | Endpoint::Status => true,
    };
    let status = if holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = match (endpoint, &chosen[..]) {
        (Endpoint::Status, _) => everything(&chosen),
        (_, [only]) => to_value(&RoleBody::of(only)),
        (_, several) => together(several),
    };
    respond(method, status, &body)
}

/// Several resources in one answer; what they do not have in common is called `mixed`.
#[derive(Serialize)]
struct Together<'a> {
    state: &'static str,
    role: &'static str,
    resources: Vec<RoleBody<'a>>,
}

fn together(chosen: &[&RoleFacts]) -> Value {
    let resources: Vec<RoleBody<'_>> = chosen.iter().map(|facts| RoleBody::of(facts)).collect();
    let common = |word: fn(&RoleBody<'_>) -> &'static str, none: &'static str| {
        let Some(first) = resources.first().map(word) else { return none };
        if resources.iter().all(|r| word(r) == first) { first } else { "mixed" }
    };
    let (state, role) = (common(|r| r.state, "stopped"), common(|r| r.role, "unknown"));
    to_value(&Together { state, role, resources })
}

/// Everything that is known: for each resource what the other paths say, and its status as `status --json` has it.
#[derive(Serialize)]
struct Everything<'a> {
    version: &'static str,
    resources: Vec<WithDetails<'a>>,
}

#[derive(Serialize)]
struct WithDetails<'a> {
    #[serde(flatten)]
    role: RoleBody<'a>,
    service_is_home: Option<bool>,
    service_answers: Option<bool>,
    standalone_reason: Option<&'a str>,
    handshake_note: Option<&'a str>,
    drbd: Value,
}

impl<'a> WithDetails<'a> {
    fn of(facts: &'a RoleFacts) -> WithDetails<'a> {
        let snapshot = &*facts.snapshot;
        let text = json::render(std::slice::from_ref(snapshot));
        let drbd = serde_json::from_str::<[Value; 1]>(&text).map_or(Value::Null, |[resource]| resource);
        WithDetails {
            role: RoleBody::of(facts),
            service_is_home: facts.service.map(|s| s.is_home),
            service_answers: facts.service.map(|s| s.answers),
            standalone_reason: snapshot.standalone_reason.as_deref(),
            handshake_note: snapshot.handshake_note.as_deref(),
            drbd,
        }
    }
}

fn everything(chosen: &[&RoleFacts]) -> Value {
    to_value(&Everything {
        version: env!("CARGO_PKG_VERSION"),
        resources: chosen.iter().map(|facts| WithDetails::of(facts)).collect(),
    })
}

fn to_value(body: &impl Serialize) -> Value {
    serde_json::to_value(body).expect("names and numbers are JSON")
}

fn refusal(method: &Method, status: StatusCode, why: &str) -> Response {
    respond(method, status, &serde_json::json!({ "error": why }))
}

fn respond(method: &Method, status: StatusCode, body: &Value) -> Response {
    // As Patroni does it: a check by OPTIONS gets the head only. That of HEAD is taken off on the way out.
    let body = if method == Method::OPTIONS { Body::empty() } else { Body::from(format!("{body}\n")) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
