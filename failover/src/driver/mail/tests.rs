//! Mails to servers that take them, hang, refuse, or are none.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;

/// Longer than anything here takes, also on a busy machine.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

/// What a server does with a connection, by its number from 0 on.
type Behaviour = fn(usize) -> Kind;

#[derive(Clone, Copy)]
enum Kind {
    /// Takes the mail.
    Takes,
    /// Takes it, but not for recipients that begin with `no`, and not yet for those that begin with `later`.
    Picks,
    /// Says this and nothing else.
    Says(&'static [u8]),
    /// Says an octet of an endless answer now and then.
    Dribbles,
}

/// A server on this machine and what its clients have said, connection by connection.
struct Server {
    port: u16,
    said: Rc<RefCell<Vec<Vec<String>>>>,
}

impl Server {
    async fn start(behaviour: Behaviour) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said: Rc<RefCell<Vec<Vec<String>>>> = Rc::default();
        let heard = said.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = heard.borrow().len();
                heard.borrow_mut().push(Vec::new());
                tokio::task::spawn_local(serve(stream, behaviour(number), number, heard.clone()));
            }
        });
        Server { port, said }
    }

    fn globals(&self) -> Globals {
        globals(self.port)
    }

    /// The lines of one connection.
    fn lines(&self, number: usize) -> Vec<String> {
        self.said.borrow()[number].clone()
    }

    fn connections(&self) -> usize {
        self.said.borrow().len()
    }
}

async fn serve(stream: TcpStream, kind: Kind, number: usize, said: Rc<RefCell<Vec<Vec<String>>>>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    match kind {
        Kind::Says(words) => {
            let _ = writer.write_all(words).await;
        }
        Kind::Dribbles => {
            while writer.write_all(b"2").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        }
        Kind::Takes | Kind::Picks => writer.write_all(b"220 sink\r\n").await.unwrap(),
    }
    let mut is_text = false;
    while let Ok(Some(line)) = lines.next_line().await {
        said.borrow_mut()[number].push(line.clone());
        if matches!(kind, Kind::Says(_) | Kind::Dribbles) || is_text && line != "." {
            continue;
        }
        is_text = line == "DATA";
        let answer = match line.split_once(":<") {
            _ if is_text => "354 go on",
            Some(("RCPT TO", to)) if matches!(kind, Kind::Picks) && to.starts_with("no") => "550 unknown",
            Some(("RCPT TO", to)) if matches!(kind, Kind::Picks) && to.starts_with("later") => "450 busy",
            _ => "250 ok",
        };
        let _ = writer.write_all(format!("{answer}\r\n").as_bytes()).await;
    }
}

fn globals(port: u16) -> Globals {
    Globals {
        router_id: Some("LVS_X".into()),
        email_to: vec!["a@example.com".into()],
        email_from: Some("from@example.com".into()),
        smtp_server: Some(SmtpServer { host: "127.0.0.1".into(), port }),
        smtp_helo_name: Some("alpha".into()),
        smtp_connect_timeout: Some(LONG),
        ..Globals::default()
    }
}

/// What has been logged, each line behind its level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines, with `PORT` for the number.
    fn lines(&self, port: u16) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().replace(&port.to_string(), "PORT")).collect()
    }
}

/// Runs a test with tasks on its thread; what is logged is kept.
fn local(test: impl AsyncFnOnce(Log)) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test(log)));
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Pauses that a test does not see the end of, and such that it does.
const NEVER: [Duration; 3] = [Duration::from_secs(3600); 3];
const SOON: [Duration; 2] = [Duration::from_millis(20); 2];

#[test]
fn mails_arrive_in_their_order() {
    local(async |log| {
        let server = Server::start(|_| Kind::Takes).await;
        let mailer = Mailer::start_with(&server.globals(), &NEVER);
        let other = mailer.clone();
        mailer.send("VRRP Instance VI_1 - Entering BACKUP state", "One\n.\n");
        other.send("second", "Two\n");
        mailer.flush(LONG).await;
        assert_eq!(server.connections(), 2);
        until("the goodbye", || server.lines(0).last().is_some_and(|line| line == "QUIT")).await;
        let lines = server.lines(0);
        let envelope = ["EHLO alpha", "MAIL FROM:<from@example.com>", "RCPT TO:<a@example.com>", "DATA"];
        assert_eq!(lines[..4], envelope);
        assert!(lines.contains(&"Subject: [LVS_X] VRRP Instance VI_1 - Entering BACKUP state".to_owned()));
        assert_eq!(lines[lines.len() - 5..], ["", "One", "..", ".", "QUIT"]);
        let ids = [0, 1].map(|n| server.lines(n).into_iter().find(|l| l.starts_with("Message-ID")).unwrap());
        assert_ne!(ids[0], ids[1]);
        assert!(server.lines(1).contains(&"Subject: [LVS_X] second".to_owned()));
        assert_eq!(log.lines(server.port), [""; 0]);
    });
}

#[test]
fn without_a_server_or_recipients_there_is_nothing_to_do() {
    local(async |log| {
        for globals in [
            Globals { smtp_server: None, ..globals(1) },
            Globals { email_to: vec![], ..globals(1) },
            // Nothing but this module may have checked them.
            Globals { email_to: vec!["a b".into(), "a\r\nDATA".into()], ..globals(1) },
        ] {
            let mailer = Mailer::start_with(&globals, &NEVER);
            mailer.send("x", "y");
            mailer.flush(LONG).await;
        }
        assert_eq!(log.lines(1), [""; 0]);
    });
}

#[test]
fn what_the_server_does_not_take_yet_is_tried_again_and_only_for_those_who_lack_it() {
    local(async |log| {
        let server = Server::start(|number| match number {
            0 => Kind::Says(b"421 busy\r\n"),
            1 => Kind::Picks,
            _ => Kind::Takes,
        })
        .await;
        let to = ["a", "later1", "no1", "later2"].map(str::to_owned).to_vec();
        let mailer = Mailer::start_with(&Globals { email_to: to, ..server.globals() }, &SOON);
        mailer.send("s", "t");
        until("three connections, the last one to its end", || {
            server.connections() == 3 && server.lines(2).last().is_some_and(|line| line == "QUIT")
        })
        .await;
        let recipients = |n| -> Vec<String> {
            server.lines(n).into_iter().filter_map(|l| Some(l.strip_prefix("RCPT TO:")?.to_owned())).collect()
        };
        assert_eq!(recipients(1), ["<a>", "<later1>", "<no1>", "<later2>"]);
        assert_eq!(recipients(2), ["<later1>", "<later2>"]);
        assert!(server.lines(2).join("\n").contains("To: a,\n later1,"), "the message itself is the same");
        let id = |n| server.lines(n).into_iter().find(|line| line.starts_with("Message-ID"));
        assert!(id(1).is_some() && id(1) == id(2));
        assert_eq!(
            log.lines(server.port),
            [
                "WARN mail '[LVS_X] s' is tried again in 20ms: 127.0.0.1:PORT: the server answers the connection \
                 with 421 busy",
                "WARN mail '[LVS_X] s': 127.0.0.1:PORT refuses it for no1: 550 unknown",
                "WARN mail '[LVS_X] s' is tried again in 20ms: 127.0.0.1:PORT: it is refused for later1: 450 busy",
            ]
        );
    });
}

/// One mail that is not delivered; gives the last line of the log.
async fn given_up(log: &Log, server: &Server, timeout: Duration, pauses: &'static [Duration]) -> String {
    let globals = Globals { smtp_connect_timeout: Some(timeout), ..server.globals() };
    let mailer = Mailer::start_with(&globals, pauses);
    mailer.send("s", "t");
    until("it is given up", || log.lines(server.port).iter().any(|line| line.contains("given up"))).await;
    let lines = log.lines(server.port);
    assert_eq!(lines.len(), pauses.len() + 1, "a failure is one line: {lines:?}");
    lines.last().unwrap().clone()
}

#[test]
fn a_server_that_is_none_is_given_up() {
    local(async |log| {
        let server = Server::start(|_| Kind::Says(b"\x00\xff hello\n")).await;
        let line = given_up(&log, &server, LONG, &SOON).await;
        assert_eq!(
            line,
            "WARN mail '[LVS_X] s' is given up: 127.0.0.1:PORT: what comes as an answer to the connection is none: '\u{fffd} \
             hello' is no answer of SMTP"
        );
        assert_eq!(server.connections(), 3);
    });
}

#[test]
fn a_server_that_hangs_or_never_ends_its_answer_is_given_up_in_time() {
    for behaviour in [|_| Kind::Says(b""), |_| Kind::Dribbles] as [Behaviour; 2] {
        local(async |log| {
            let server = Server::start(behaviour).await;
            let line = given_up(&log, &server, SHORT, &[]).await;
            assert_eq!(
                line,
                "WARN mail '[LVS_X] s' is given up: 127.0.0.1:PORT: no answer to the connection in time"
            );
        });
    }
}

#[test]
fn a_refusal_for_good_is_not_tried_again() {
    local(async |log| {
        let server = Server::start(|_| Kind::Picks).await;
        let globals = Globals { email_to: vec!["no".into()], ..server.globals() };
        let mailer = Mailer::start_with(&globals, &NEVER);
        mailer.send("s", "t");
        until("it is given up", || !log.lines(server.port).is_empty()).await;
        let text = "WARN mail '[LVS_X] s' is given up: 127.0.0.1:PORT: the server answers RCPT TO:<no> with 550 unknown";
        assert_eq!(log.lines(server.port), [text]);
    });
}

#[test]
fn a_port_where_nobody_listens_is_told_once_for_each_attempt() {
    local(async |log| {
        // Nobody else can have the port as long as it is bound.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = Server { port, said: Rc::default() };
        let line = given_up(&log, &server, LONG, &SOON).await;
        assert!(
            line.starts_with("WARN mail '[LVS_X] s' is given up: 127.0.0.1:PORT: cannot connect: "),
            "{line}"
        );
    });
}

#[test]
fn a_full_queue_loses_the_oldest_and_the_end_does_not_wait() {
    local(async |log| {
        let server = Server::start(|_| Kind::Says(b"")).await;
        let mailer = Mailer::start_with(&server.globals(), &NEVER);
        mailer.send("first", "it hangs");
        until("it is on its way", || server.connections() == 1).await;
        for number in 0..=QUEUE_MAX {
            mailer.send(&format!("number {number}"), "");
        }
        mailer.flush(SHORT).await;
        assert_eq!(
            log.lines(server.port),
            [
                "WARN mail '[LVS_X] number 0' is not sent: more than 64 of them wait",
                "WARN mails: 65 are not sent within 200ms, and not waited for any longer",
            ]
        );
    });
}

#[test]
fn at_the_end_a_pause_is_cut_short_and_there_is_one_more_attempt() {
    local(async |log| {
        let server =
            Server::start(|number| if number == 0 { Kind::Says(b"421 x\r\n") } else { Kind::Takes }).await;
        let mailer = Mailer::start_with(&server.globals(), &NEVER);
        mailer.send("s", "t");
        until("the pause", || !log.lines(server.port).is_empty()).await;
        mailer.send("next", "");
        assert_eq!(server.connections(), 1, "it waits behind the one before");
        mailer.flush(LONG).await;
        assert_eq!((server.connections(), log.lines(server.port).len()), (3, 1));
    });
}
