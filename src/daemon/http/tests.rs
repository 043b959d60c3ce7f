//! The tables: what each state of a resource means to clients, on every path and in the agent's words.

use hyper::service::Service;
use model::state::{ConnState as C, DiskState as D};
use model::status::{ResourceSnapshot, VolumeSnapshot};

use super::roles::{Question as Q, ServiceFacts, Standing};
use super::*;

/// Secondary, connected, both copies good.
fn replica(name: &str) -> ResourceSnapshot {
    let mut volume = VolumeSnapshot::new(0, 0);
    volume.state.conn = C::Connected;
    (volume.state.disk, volume.state.pdsk) = (D::UpToDate, D::UpToDate);
    let mut r = ResourceSnapshot::new(name);
    (r.connection, r.protocol, r.peer_role) = (C::Connected, Some('C'), Role::Primary);
    r.node_name = Some("alpha".into());
    r.volumes = vec![volume];
    r
}

fn primary(name: &str) -> ResourceSnapshot {
    let mut r = replica(name);
    (r.role, r.peer_role) = (Role::Primary, Role::Secondary);
    r.volumes[0].state.role = Role::Primary;
    r
}

/// The volume in another state, with so much marked.
fn changed(mut r: ResourceSnapshot, conn: C, disk: D, pdsk: D, out_of_sync_kib: u64) -> ResourceSnapshot {
    r.connection = r.connection.min(conn);
    let v = &mut r.volumes[0];
    (v.state.conn, v.state.disk, v.state.pdsk) = (conn, disk, pdsk);
    v.counters.out_of_sync_kib = out_of_sync_kib;
    r
}

fn facts(snapshot: ResourceSnapshot) -> RoleFacts {
    RoleFacts { snapshot: Arc::new(snapshot), is_alive: true, is_demoting: false, service: None }
}

const LIST: [(char, Q); 9] = [
    ('p', Q::Primary),
    ('r', Q::Replica),
    ('o', Q::ReadOnly),
    ('s', Q::Sync),
    ('a', Q::Async),
    ('S', Q::ReadOnlySync),
    ('A', Q::ReadOnlyAsync),
    ('h', Q::Health),
    ('y', Q::Readiness),
];

/// The letters of the questions that are answered with yes.
fn yes(facts: &RoleFacts, lag_bytes_max: Option<u64>) -> String {
    assert!(!Q::StandbyLeader.holds(facts, lag_bytes_max));
    LIST.iter().filter(|(_, q)| q.holds(facts, lag_bytes_max)).map(|(letter, _)| *letter).collect()
}

#[test]
fn every_state_has_its_answers() {
    let service = |is_home, answers| {
        let service = Some(ServiceFacts { is_home, answers });
        RoleFacts { service, ..facts(primary("r0")) }
    };
    let with = |change: fn(&mut ResourceSnapshot), mut r: ResourceSnapshot| {
        change(&mut r);
        facts(r)
    };
    let two_volumes = |conn, disk, pdsk| {
        let mut r = changed(primary("r0"), conn, disk, pdsk, 8);
        r.connection = C::Connected;
        r.volumes.push(primary("r0").volumes[0].clone());
        facts(r)
    };
    let at = |base, conn, disk, pdsk, kib| facts(changed(base, conn, disk, pdsk, kib));
    let (p, r) = (|| primary("r0"), || replica("r0"));
    let demoting = RoleFacts { is_demoting: true, ..facts(p()) };
    let dead = RoleFacts { is_alive: false, ..facts(p()) };
    // What it is, how it stands, what is answered with yes, what it lacks in bytes.
    let rows = [
        (facts(p()), Standing::Serving, "poSAhy", Some(0)),
        (at(p(), C::WFConnection, D::UpToDate, D::DUnknown, 8), Standing::Serving, "poSAhy", Some(0)),
        (at(p(), C::SyncTarget, D::Inconsistent, D::UpToDate, 8), Standing::Serving, "poSAhy", Some(8192)),
        (at(p(), C::Connected, D::Diskless, D::UpToDate, 0), Standing::Serving, "poSAhy", None),
        (at(p(), C::WFConnection, D::Diskless, D::DUnknown, 0), Standing::NoData, "h", None),
        (at(p(), C::NetworkFailure, D::Failed, D::UpToDate, 0), Standing::NoData, "h", None),
        (two_volumes(C::Connected, D::Diskless, D::Inconsistent), Standing::NoData, "h", None),
        (with(|r| r.suspended_no_data = true, p()), Standing::Suspended, "h", Some(0)),
        (with(|r| r.suspended_fencing = true, p()), Standing::Suspended, "h", Some(0)),
        (with(|r| r.suspended_user = true, p()), Standing::Suspended, "h", Some(0)),
        (demoting, Standing::Demoting, "h", Some(0)),
        (dead, Standing::Stopped, "", Some(0)),
        (service(true, true), Standing::Serving, "poSAhy", Some(0)),
        (service(true, false), Standing::Serving, "poSAy", Some(0)),
        (service(false, false), Standing::ServiceAway, "h", Some(0)),
        (facts(r()), Standing::Replica, "rosShy", Some(0)),
        (with(|r| r.protocol = Some('A'), r()), Standing::Replica, "roaAhy", Some(0)),
        // What a verify has found.
        (at(r(), C::Connected, D::UpToDate, D::UpToDate, 4), Standing::Replica, "roaAh", Some(4096)),
        (at(r(), C::SyncSource, D::UpToDate, D::Inconsistent, 4), Standing::Replica, "rosShy", Some(0)),
        (at(r(), C::WFConnection, D::UpToDate, D::DUnknown, 0), Standing::Replica, "roaAh", None),
        (at(r(), C::SyncTarget, D::Inconsistent, D::UpToDate, 4), Standing::Syncing, "h", Some(4096)),
        (at(r(), C::Behind, D::Outdated, D::UpToDate, 4), Standing::Syncing, "h", Some(4096)),
        (at(r(), C::WFConnection, D::Outdated, D::DUnknown, 0), Standing::NotCurrent, "h", None),
        (facts(ResourceSnapshot::new("r0")), Standing::Stopped, "", Some(0)),
    ];
    for (facts, standing, letters, lag_bytes) in rows {
        let state = &facts.snapshot.volumes.first().map(|v| v.state);
        assert_eq!(facts.standing(), standing, "{state:?}");
        assert_eq!(yes(&facts, None), letters, "{standing:?} {state:?}");
        assert_eq!(facts.lag_bytes(), lag_bytes, "{standing:?} {state:?}");
        assert_eq!(agent::line(&[facts]) == "up 100%\n", standing == Standing::Serving);
    }
}

#[test]
fn a_lag_takes_away_replicas_only() {
    let unknown = facts(changed(replica("r0"), C::WFConnection, D::UpToDate, D::DUnknown, 0));
    let found = facts(changed(replica("r0"), C::Connected, D::UpToDate, D::UpToDate, 4));
    assert_eq!(yes(&facts(primary("r0")), Some(0)), "poSAhy");
    assert_eq!(yes(&unknown, Some(u64::MAX)), "h");
    assert_eq!(yes(&found, Some(4095)), "h");
    assert_eq!(yes(&found, Some(4096)), "roaAhy");
}

#[test]
fn the_agent_speaks_for_the_worst_resource() {
    let demoting = RoleFacts { is_demoting: true, ..facts(primary("a")) };
    assert_eq!(agent::line(&[]), "down #not up\n");
    assert_eq!(agent::line(&[facts(primary("a")), facts(primary("b"))]), "up 100%\n");
    assert_eq!(agent::line(&[facts(primary("a")), demoting.clone()]), "up 0% #demoting\n");
    assert_eq!(agent::line(&[facts(replica("a")), demoting]), "down #secondary\n");
}

/// Status and body of one request.
fn ask(method: &str, uri: &str, roles: &[RoleFacts]) -> (u16, String) {
    let request = hyper::Request::builder().method(method).uri(uri);
    let request = request.extension(Arc::new(Picture(roles.to_vec()))).body(String::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let response = TowerToHyperService::new(routes::router()).call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    })
}

fn get(uri: &str, roles: &[RoleFacts]) -> u16 {
    ask("GET", uri, roles).0
}

#[test]
fn paths_have_the_names_that_users_of_patroni_know() {
    let (p, r) = ([facts(primary("r0"))], [facts(replica("r0"))]);
    for path in ["/", "/primary", "/leader", "/master", "/read-write", "/r0/primary", "/primary?resource=r0"]
    {
        assert_eq!((get(path, &p), get(path, &r)), (200, 503), "{path}");
    }
    for path in ["/replica", "/sync", "/synchronous", "/replica?lag=16MB", "/replica?lag=0", "/r0/replica"] {
        assert_eq!((get(path, &p), get(path, &r)), (503, 200), "{path}");
    }
    for path in ["/read-only", "/health", "/liveness", "/readiness", "/status", "/patroni", "/r0/health"] {
        assert_eq!((get(path, &p), get(path, &r)), (200, 200), "{path}");
    }
    for path in ["/standby-leader", "/standby_leader", "/primary?resource=r1", "/r1/primary", "/r1/health"] {
        assert_eq!((get(path, &p), get(path, &r)), (503, 503), "{path}");
    }
    for path in ["/nothing", "/r0/nothing", "/r0/primary/x", "/r0/", "//", "/%ff"] {
        assert!(matches!(get(path, &p), 400 | 404), "{path}");
    }
    for path in ["/replica?lag=5s", "/replica?lag=-1", "/replica?lag=", "/?lag=1&lag=2"] {
        assert_eq!(get(path, &r), 400, "{path}");
    }
    assert_eq!(get("/primary?tag=x&verbose", &p), 200, "what is not known is ignored");
}

#[test]
fn without_a_name_all_resources_have_to_agree() {
    let mixed = [facts(primary("r0")), facts(replica("r1"))];
    assert_eq!(get("/primary", &[facts(primary("r0")), facts(primary("r1"))]), 200);
    assert_eq!((get("/primary", &mixed), get("/replica", &mixed)), (503, 503));
    assert_eq!((get("/r0/primary", &mixed), get("/replica?resource=r1", &mixed)), (200, 200));
    assert_eq!((get("/read-only", &mixed), get("/health", &mixed)), (200, 200));
    let (_, body) = ask("GET", "/primary", &mixed);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["state"], &body["role"]), (&"running".into(), &"mixed".into()));
    assert_eq!(body["resources"][1]["resource"], "r1");
    for path in ["/primary", "/replica", "/health", "/readiness"] {
        assert_eq!(get(path, &[]), 503, "{path}: nothing is up");
    }
    assert_eq!((get("/liveness", &[]), get("/status", &[])), (200, 200));
}

#[test]
fn bodies_say_what_is_known() {
    let target = changed(replica("r0"), C::SyncTarget, D::Inconsistent, D::UpToDate, 4);
    let (status, body) = ask("GET", "/replica", &[facts(target.clone())]);
    let expected = serde_json::json!({
        "state": "syncing", "role": "replica", "resource": "r0", "node": "alpha", "connection_state": "SyncTarget",
        "disk_state": "Inconsistent", "peer_role": "Primary", "peer_disk_state": "UpToDate", "suspended": false,
        "out_of_sync_bytes": 4096, "lag": 4096,
    });
    assert_eq!((status, serde_json::from_str(&body).unwrap()), (503, expected));
    let (_, body) = ask("GET", "/status", &[facts(target)]);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let resource = &body["resources"][0];
    assert_eq!((&resource["state"], &resource["lag"]), (&"syncing".into(), &4096.into()));
    assert_eq!(resource["drbd"]["devices"][0]["disk-state"], "Inconsistent");
    assert_eq!(ask("OPTIONS", "/primary", &[]), (503, String::new()));
    for method in ["POST", "PUT", "DELETE", "CONNECT", "BREW"] {
        assert_eq!(ask(method, "/primary", &[facts(primary("r0"))]).0, 405, "{method}");
    }
}
