//! The policies that decide between two copies which both were written alone: every value of each, with the outcome that two
//! kernels show.

use crate::lab::{LONG, Lab, Setup};

/// Who is Primary when they meet again. The first node was Primary when they lost each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Primaries {
    None,
    First,
    Both,
}

/// What comes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The data of the first node stays; all keep their roles.
    First,
    /// The data of the second node stays; all keep their roles.
    Second,
    /// Both are StandAlone.
    Refused,
    /// The first node, a Primary that would be overwritten, is StandAlone.
    FirstRefuses,
    /// The second node is.
    SecondRefuses,
}

struct Row {
    /// Options of both, or of the first and of the second node.
    net: [&'static str; 2],
    primaries: Primaries,
    /// KiB that each writes alone.
    written: [usize; 2],
    outcome: Outcome,
}

const fn row(net: &'static str, primaries: Primaries, written: [usize; 2], outcome: Outcome) -> Row {
    Row { net: [net, net], primaries, written, outcome }
}

#[rustfmt::skip]
const NO_PRIMARY: &[Row] = &[
    row("after-sb-0pri disconnect;",              Primaries::None, [8, 8],  Outcome::Refused),
    row("after-sb-0pri discard-younger-primary;", Primaries::None, [8, 16], Outcome::First),
    row("after-sb-0pri discard-older-primary;",   Primaries::None, [16, 8], Outcome::Second),
    row("after-sb-0pri discard-zero-changes;",    Primaries::None, [0, 8],  Outcome::Second),
    row("after-sb-0pri discard-zero-changes;",    Primaries::None, [8, 8],  Outcome::Refused),
    row("after-sb-0pri discard-least-changes;",   Primaries::None, [8, 16], Outcome::Second),
    row("after-sb-0pri discard-least-changes;",   Primaries::None, [16, 8], Outcome::First),
    Row {
        net: ["after-sb-0pri discard-remote;", "after-sb-0pri discard-local;"],
        primaries: Primaries::None,
        written: [8, 16],
        outcome: Outcome::First,
    },
    Row {
        net: ["after-sb-0pri discard-local;", "after-sb-0pri discard-remote;"],
        primaries: Primaries::None,
        written: [16, 8],
        outcome: Outcome::Second,
    },
];

#[rustfmt::skip]
const ONE_PRIMARY: &[Row] = &[
    row("after-sb-1pri disconnect; after-sb-0pri discard-younger-primary;",
        Primaries::First, [8, 16], Outcome::Refused),
    row("after-sb-1pri consensus; after-sb-0pri discard-younger-primary;",
        Primaries::First, [8, 16], Outcome::First),
    row("after-sb-1pri consensus; after-sb-0pri discard-older-primary;",
        Primaries::First, [16, 8], Outcome::Refused),
    row("after-sb-1pri discard-secondary;",
        Primaries::First, [8, 16], Outcome::First),
    row("after-sb-1pri call-pri-lost-after-sb; after-sb-0pri discard-younger-primary;",
        Primaries::First, [8, 16], Outcome::First),
    row("after-sb-1pri call-pri-lost-after-sb; after-sb-0pri discard-least-changes;",
        Primaries::First, [8, 16], Outcome::FirstRefuses),
    row("after-sb-1pri violently-as0p; after-sb-0pri discard-least-changes;",
        Primaries::First, [8, 16], Outcome::FirstRefuses),
    row("after-sb-1pri violently-as0p; after-sb-0pri discard-least-changes; rr-conflict call-pri-lost;",
        Primaries::First, [8, 16], Outcome::FirstRefuses),
    row("after-sb-1pri violently-as0p; after-sb-0pri discard-least-changes; rr-conflict violently;",
        Primaries::First, [8, 16], Outcome::Second),
];

#[rustfmt::skip]
const TWO_PRIMARIES: &[Row] = &[
    row("allow-two-primaries; after-sb-2pri disconnect; after-sb-0pri discard-least-changes;",
        Primaries::Both, [16, 8], Outcome::Refused),
    row("allow-two-primaries; after-sb-2pri call-pri-lost-after-sb; after-sb-0pri discard-least-changes;",
        Primaries::Both, [16, 8], Outcome::SecondRefuses),
    row("allow-two-primaries; after-sb-2pri call-pri-lost-after-sb; after-sb-0pri discard-least-changes;",
        Primaries::Both, [8, 16], Outcome::FirstRefuses),
    row("allow-two-primaries; after-sb-2pri violently-as0p; after-sb-0pri discard-least-changes; rr-conflict violently;",
        Primaries::Both, [8, 16], Outcome::Second),
];

/// Nobody is Primary when they meet.
pub fn no_primary(lab: &mut Lab, p: usize) -> String {
    all(lab, p, NO_PRIMARY)
}

/// One is.
pub fn one_primary(lab: &mut Lab, p: usize) -> String {
    all(lab, p, ONE_PRIMARY)
}

/// Both are.
pub fn two_primaries(lab: &mut Lab, p: usize) -> String {
    all(lab, p, TWO_PRIMARIES)
}

fn all(lab: &mut Lab, p: usize, rows: &[Row]) -> String {
    let mut solved = 0;
    let words = std::env::var("LOCKSTEP_INTEROP_ROWS").unwrap_or_default();
    let rows: Vec<&Row> = rows.iter().filter(|r| r.net[0].contains(&words)).collect();
    for row in &rows {
        eprintln!("     {} / {}: {:?}", row.net[0], row.net[1], row.outcome);
        let written = part(lab, p, row);
        solved += u32::from(meet(lab, p, row, &written));
    }
    format!("{} policies, {solved} solved", rows.len())
}

/// Both write alone: the first at 1 MiB, the second at 3 MiB.
fn part(lab: &mut Lab, p: usize, row: &Row) -> [Vec<u8>; 2] {
    let s = 1 - p;
    let mut setup = Setup { net: "protocol C;".to_owned(), ..Setup::default() };
    for (n, net) in [p, s].into_iter().zip(row.net) {
        setup.net_of[n] = net.to_owned();
    }
    lab.pair(&setup, p);
    lab.nodes[s].ok("disconnect r0");
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].ok("primary r0");
    let mut written = [Vec::new(), Vec::new()];
    for (i, n) in [p, s].into_iter().enumerate().filter(|(i, _)| row.written[*i] > 0) {
        written[i] = lab.write(n, PLACES[i] as u64, row.written[i] << 10);
    }
    if row.primaries != Primaries::Both {
        lab.nodes[s].ok("secondary r0");
    }
    if row.primaries == Primaries::None {
        lab.nodes[p].ok("secondary r0");
    }
    lab.nodes[s].ok("connect r0");
    written
}

/// True if one copy has won.
fn meet(lab: &mut Lab, p: usize, row: &Row, written: &[Vec<u8>; 2]) -> bool {
    let roles = match row.primaries {
        Primaries::None => ["Secondary", "Secondary"],
        Primaries::First => ["Primary", "Secondary"],
        Primaries::Both => ["Primary", "Primary"],
    };
    let refusing: &[usize] = match row.outcome {
        Outcome::First | Outcome::Second => &[],
        Outcome::Refused => &[0, 1],
        Outcome::FirstRefuses => &[0],
        Outcome::SecondRefuses => &[1],
    };
    for i in refusing {
        let node = &lab.nodes[[p, 1 - p][*i]];
        node.wait(&format!("StandAlone {}/Unknown UpToDate/DUnknown", roles[*i]), LONG);
        // Nobody steps down in the middle of connecting: it is left to a handler.
        let handlers = ["call-pri-lost-after-sb;", "call-pri-lost;"].map(|o| row.net[0].contains(o));
        let called = ["pri-lost-after-sb minor-0", "pri-lost minor-0"];
        for (_, text) in handlers.iter().zip(called).filter(|(is_wanted, _)| **is_wanted) {
            node.wait_log(text, LONG);
        }
    }
    if !refusing.is_empty() {
        lab.clear();
        return false;
    }
    let winner = usize::from(row.outcome == Outcome::Second);
    for (n, own, peer) in [(p, 0, 1), (1 - p, 1, 0)] {
        let wanted = format!("Connected {}/{} UpToDate/UpToDate", roles[own], roles[peer]);
        lab.nodes[n].wait(&wanted, LONG);
    }
    lab.finish();
    let disk = lab.nodes[p].disk_bytes(4 << 20);
    for (i, data) in written.iter().enumerate() {
        let there = &disk[PLACES[i]..][..data.len()];
        let none = vec![0; data.len()];
        assert!(there == if i == winner { data } else { &none }, "{:?}: what node {} wrote", row.net, i + 1);
    }
    true
}

const PLACES: [usize; 2] = [1 << 20, 3 << 20];
