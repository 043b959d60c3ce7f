//! Answers of a mail server, or of something that is none: the dialogue ends, and nothing counts as delivered whose text was
//! not said.

use failover::mail::Dialogue;

/// The first octet says in pieces of how many octets the others arrive; zero: a line each.
pub fn run(data: &[u8]) {
    let Some((how, answers)) = data.split_first() else { return };
    let to = ["a@example.com".to_owned(), "b".to_owned()];
    let mut dialogue = Dialogue::new("alpha", "lockstep@alpha", &to, b"Subject: x\r\n\r\n.\r\n");
    let mut said = Vec::new();
    let pieces: Vec<&[u8]> = match usize::from(*how) {
        0 => answers.split_inclusive(|octet| *octet == b'\n').collect(),
        octets => answers.chunks(octets).collect(),
    };
    for piece in pieces {
        said.extend(dialogue.take_output());
        dialogue.receive(piece);
    }
    said.extend(dialogue.take_output());
    dialogue.closed();
    assert!(dialogue.is_over() && !dialogue.has_output(), "a closed connection is the end");
    let is_delivered = dialogue.outcome().expect("what is over has an outcome").is_ok();
    assert!(!is_delivered || said.ends_with(b"\r\n\r\n..\r\n.\r\nQUIT\r\n"), "delivered and not said");
}
