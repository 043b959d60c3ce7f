//! Dialogues, line by line, and with servers that are none.

use proptest::prelude::*;

use super::*;

fn dialogue(to: &[&str]) -> Dialogue {
    let to: Vec<String> = to.iter().map(|to| (*to).to_owned()).collect();
    Dialogue::new("alpha", "lockstep@alpha", &to, b"Subject: x\r\n\r\nOne\r\n.\r\n..two\r\n")
}

/// Gives each answer when something was said; gives everything that was said.
fn talk(dialogue: &mut Dialogue, answers: &[&str]) -> String {
    let mut said = Vec::new();
    for answer in answers {
        said.extend(dialogue.take_output());
        dialogue.receive(format!("{answer}\r\n").as_bytes());
    }
    said.extend(dialogue.take_output());
    String::from_utf8(said).unwrap()
}

fn reply(code: u16, text: &str) -> Reply {
    Reply { code, text: text.to_owned() }
}

const WELL: [&str; 8] = [
    "220 mail.example.com ESMTP",
    "250-mail.example.com\r\n250-SIZE 1000\r\n250 HELP",
    "250 ok",
    "250 ok",
    "251 forwarded",
    "354 go on",
    "250 queued as 1",
    "221 bye",
];

#[test]
fn a_message_is_delivered_in_these_lines() {
    let mut d = dialogue(&["a@example.com", "b"]);
    let said = talk(&mut d, &WELL);
    assert_eq!(
        said,
        "EHLO alpha\r\n\
         MAIL FROM:<lockstep@alpha>\r\n\
         RCPT TO:<a@example.com>\r\n\
         RCPT TO:<b>\r\n\
         DATA\r\n\
         Subject: x\r\n\r\nOne\r\n..\r\n...two\r\n.\r\n\
         QUIT\r\n"
    );
    assert_eq!(d.outcome(), Some(&Ok(Delivered { refused: vec![] })));
    assert!(d.is_over());
}

#[test]
fn it_is_delivered_when_the_server_says_so_and_not_before() {
    for known in 0..WELL.len() {
        let mut d = dialogue(&["a", "b"]);
        talk(&mut d, &WELL[..known]);
        assert_eq!(d.outcome().is_some(), known >= 7, "{known}");
        d.closed();
        assert_eq!(d.outcome().unwrap().is_ok(), known >= 7, "{known}");
        assert!(d.is_over());
    }
}

#[test]
fn a_server_without_ehlo_is_greeted_in_the_old_way() {
    let mut d = dialogue(&["a"]);
    let answers = ["220 x", "502 what?", "250 x", "250 ok", "250 ok", "354", "250"];
    assert!(talk(&mut d, &answers).starts_with("EHLO alpha\r\nHELO alpha\r\nMAIL FROM"));
    assert!(d.outcome().unwrap().is_ok());
}

#[test]
fn a_refusal_ends_it_and_is_permanent_or_not() {
    let cases: [(&[&str], &str, bool); 7] = [
        (&["554 go away"], "the server answers the connection with 554 go away", true),
        (&["220", "421 busy"], "the server answers EHLO alpha with 421 busy", false),
        (&["220", "502", "550 no"], "the server answers HELO alpha with 550 no", true),
        (
            &["220", "250", "553 no such sender"],
            "the server answers MAIL FROM:<lockstep@alpha> with 553 no such sender",
            true,
        ),
        (&["220", "250", "250", "421 bye"], "the server answers RCPT TO:<a> with 421 bye", false),
        (&["220", "250", "250", "250", "250 what"], "the server answers DATA with 250 what", false),
        (
            &["220", "250", "250", "250", "354", "452 full"],
            "the server answers the message with 452 full",
            false,
        ),
    ];
    for (answers, text, is_permanent) in cases {
        let mut d = dialogue(&["a"]);
        assert!(talk(&mut d, answers).ends_with("QUIT\r\n"), "{text}");
        let error = d.outcome().unwrap().as_ref().unwrap_err();
        assert_eq!((error.to_string().as_str(), error.is_permanent()), (text, is_permanent));
    }
}

#[test]
fn those_who_are_refused_keep_it_from_nobody_else() {
    let mut d = dialogue(&["a", "b", "c"]);
    let said = talk(&mut d, &["220", "250", "250", "550 no a", "250", "450 later", "354", "250"]);
    assert!(said.contains("DATA"));
    let refusal = |to: &str, reply| Refusal { to: to.to_owned(), reply };
    let refused = vec![refusal("a", reply(550, "no a")), refusal("c", reply(450, "later"))];
    assert_eq!(d.outcome(), Some(&Ok(Delivered { refused })));
    for (answers, is_permanent) in [(["550 x", "450 y"], false), (["550 x", "551 y"], true)] {
        let mut d = dialogue(&["a", "b"]);
        let said = talk(&mut d, &["220", "250", "250", answers[0], answers[1]]);
        assert!(!said.contains("DATA"));
        assert_eq!(d.outcome().unwrap().as_ref().unwrap_err().is_permanent(), is_permanent);
    }
}

#[test]
fn what_is_no_answer_ends_it_without_another_word() {
    let mut d = dialogue(&["a"]);
    d.receive(b"SSH-2.0-OpenSSH_9.2\r\n");
    let error = d.outcome().unwrap().as_ref().unwrap_err();
    assert_eq!(
        error.to_string(),
        "what comes as an answer to the connection is none: 'SSH-2.0-OpenSSH_9.2' is no answer of SMTP"
    );
    assert!(!error.is_permanent());
    assert!(d.is_over() && d.take_output().is_empty());
    let mut d = dialogue(&["a"]);
    d.receive(b"220 x\r\n250 y\r\n");
    assert_eq!(d.outcome(), Some(&Err(MailError::Unasked("the connection".into()))));
    let mut d = dialogue(&["a"]);
    d.receive(b"220 x\r\n");
    d.receive(b"250 y\r\n");
    assert_eq!(d.outcome(), Some(&Err(MailError::Unasked("EHLO alpha".into()))), "EHLO was not sent yet");
    let mut d = dialogue(&["a"]);
    d.receive(b"220-x\r\n220 ");
    d.timed_out();
    assert_eq!(d.outcome(), Some(&Err(MailError::TimedOut("the connection".into()))));
}

#[test]
fn a_text_without_an_end_gets_one() {
    assert_eq!(transparent(b""), b".\r\n");
    assert_eq!(transparent(b"a\n.b\r\nc"), b"a\r\n..b\r\nc\r\n.\r\n");
    assert_eq!(transparent(b"."), b"..\r\n.\r\n");
}

/// An answer, or something like it.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (prop_oneof![Just(250_u16), Just(354), Just(220), 200_u16..600], "[ -~]{0,20}", any::<bool>())
            .prop_map(|(code, text, goes_on)| {
                let end = if goes_on { format!("{code} \r\n") } else { String::new() };
                format!("{code}{}{text}\r\n{end}", if goes_on { '-' } else { ' ' }).into_bytes()
            }),
        1 => proptest::collection::vec(any::<u8>(), 0..50),
        1 => proptest::collection::vec(any::<u8>(), 2000..3000),
    ]
}

proptest! {
    /// Whatever comes, and in whatever pieces: what is said is a dialogue as far as it goes, and it is delivered only if
    /// the whole message was said.
    #[test]
    fn any_server_is_survived(
        answers in proptest::collection::vec(answers(), 0..20),
        cut in 1_usize..40,
        is_slow in any::<bool>(),
    ) {
        let mut d = dialogue(&["a", "b"]);
        let mut said = Vec::new();
        for answer in answers {
            for piece in answer.chunks(if is_slow { cut } else { usize::MAX }) {
                said.extend(d.take_output());
                d.receive(piece);
            }
        }
        said.extend(d.take_output());
        d.closed();
        prop_assert!(d.is_over() && d.outcome().is_some() && d.take_output().is_empty());
        let said = String::from_utf8(said).unwrap();
        let has_all = said.contains("\r\n..\r\n...two\r\n.\r\n");
        let known = ["EHLO ", "HELO ", "MAIL ", "RCPT ", "DATA", "QUIT", "Subject: x"];
        let head = said.split("\r\n\r\n").next().unwrap();
        prop_assert!(head.split_terminator("\r\n").all(|line| known.iter().any(|word| line.starts_with(word))));
        if d.outcome().unwrap().is_ok() {
            prop_assert!(has_all && said.ends_with(".\r\nQUIT\r\n"), "{}", said);
        }
    }
}
