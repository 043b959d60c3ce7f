//! A message as octets: headers and text (RFC 5322, 2045, 2047).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets in a line at most, without its end (RFC 5322 2.1.1).
const LINE_BYTES_MAX: usize = 998;
/// Octets of text in one encoded word: with what is around it the word is shorter than 75 (RFC 2047 2).
const WORD_BYTES: usize = 42;
/// Octets that make a line of 76 in base64 (RFC 2045 6.8).
const BASE64_LINE_BYTES: usize = 57;

/// One message. What its texts hold cannot become a header, or an end of the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// When it was written, in seconds since 1970 (UTC).
    pub at_s: u64,
    /// Name of the message: unlike that of any other, with an `@` in it.
    pub id: String,
    /// Sender. An address is printable ASCII, without brackets and commas.
    pub from: String,
    /// Recipients.
    pub to: Vec<String>,
    /// Subject.
    pub subject: String,
    /// The text, in lines.
    pub text: String,
}

impl Message {
    /// The message as it is sent, in lines that end with CR LF; the dots of RFC 5321 4.5.2 are not doubled yet.
    pub fn encode(&self) -> Vec<u8> {
        let lines: Vec<String> = self.text.lines().map(without_controls).collect();
        let is_plain = lines.iter().all(|line| line.is_ascii() && line.len() <= LINE_BYTES_MAX);
        let headers = [
            ("Date", date(self.at_s)),
            ("From", header(&self.from)),
            ("To", self.to.iter().map(|to| header(to)).collect::<Vec<_>>().join(",\r\n ")),
            ("Subject", header(&self.subject)),
            ("Message-ID", format!("<{}>", header(&self.id))),
            ("Auto-Submitted", "auto-generated".to_owned()),
            ("X-Mailer", "lockstep".to_owned()),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
            ("Content-Transfer-Encoding", (if is_plain { "7bit" } else { "base64" }).to_owned()),
        ];
        let mut out: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        out.push_str("\r\n");
        if is_plain {
            lines.iter().for_each(|line| out.extend([line, "\r\n"]));
        } else {
            for line in (lines.join("\r\n") + "\r\n").as_bytes().chunks(BASE64_LINE_BYTES) {
                out.extend([&STANDARD.encode(line), "\r\n"]);
            }
        }
        assert!(out.is_ascii() && out.ends_with("\r\n"), "a message is lines of ASCII");
        out.into_bytes()
    }
}

/// What would begin another line, or move a terminal's cursor, becomes a blank.
pub(super) fn without_controls(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A header's value: as it is if it is ASCII and short, else in encoded words.
fn header(text: &str) -> String {
    let text = without_controls(text);
    if text.is_ascii() && text.len() < LINE_BYTES_MAX - 100 && !text.contains("=?") {
        return text;
    }
    let mut words: Vec<String> = vec![String::new()];
    for c in text.chars() {
        if words.last().is_some_and(|word| word.len() + c.len_utf8() > WORD_BYTES) {
            words.push(String::new());
        }
        words.last_mut().expect("there is one").push(c);
    }
    words
        .iter()
        .map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word)))
        .collect::<Vec<_>>()
        .join("\r\n ")
}

/// As in RFC 5322 3.3, in UTC.
fn date(at_s: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // No date has more than four digits in its year.
    let at_s = at_s.min(253_402_300_799);
    let (mut day, second) = (at_s / 86_400, at_s % 86_400);
    let name = DAYS[usize::try_from(day % 7).unwrap_or_default()];
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{name}, {:02} {} {year} {hour:02}:{minute:02}:{second:02} +0000", day + 1, MONTHS[month])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(subject: &str, text: &str) -> Message {
        Message {
            at_s: 1_795_391_842,
            id: "1795391842.7.1@alpha".into(),
            from: "lockstep@alpha".into(),
            to: vec!["admin@example.com".into(), "root".into()],
            subject: subject.into(),
            text: text.into(),
        }
    }

    fn encoded(subject: &str, text: &str) -> String {
        String::from_utf8(message(subject, text).encode()).unwrap()
    }

    /// The headers, unfolded, and the lines behind them.
    fn parts(message: &str) -> (Vec<String>, Vec<&str>) {
        let (head, body) = message.split_once("\r\n\r\n").unwrap();
        let headers = head.replace("\r\n ", " ").split("\r\n").map(str::to_owned).collect();
        (headers, body.split_terminator("\r\n").collect())
    }

    fn decoded(words: &str) -> String {
        let words =
            words.split(' ').map(|w| w.strip_prefix("=?utf-8?B?").unwrap().strip_suffix("?=").unwrap());
        words.map(|w| String::from_utf8(STANDARD.decode(w).unwrap()).unwrap()).collect()
    }

    #[test]
    fn a_message_has_the_headers_of_the_standard() {
        assert_eq!(
            encoded("[LVS_X] VRRP Instance VI_1 - Entering MASTER state", "One.\n.two\n"),
            "Date: Sun, 22 Nov 2026 23:57:22 +0000\r\n\
             From: lockstep@alpha\r\n\
             To: admin@example.com,\r\n root\r\n\
             Subject: [LVS_X] VRRP Instance VI_1 - Entering MASTER state\r\n\
             Message-ID: <1795391842.7.1@alpha>\r\n\
             Auto-Submitted: auto-generated\r\n\
             X-Mailer: lockstep\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\
             \r\n\
             One.\r\n\
             .two\r\n"
        );
    }

    #[test]
    fn dates_are_right_around_leap_days_and_ends_of_years() {
        for (at_s, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ] {
            assert_eq!(date(at_s), expected);
        }
    }

    #[test]
    fn names_cannot_make_headers() {
        let text = encoded("a\r\nBcc: x@example.com\r\n\r\nb", "one\r\n.\r\n\rtwo\x1b[2J\n");
        let (headers, body) = parts(&text);
        assert_eq!(headers.len(), 10);
        assert_eq!(headers[3], "Subject: a  Bcc: x@example.com    b");
        assert_eq!(body, ["one", ".", " two [2J"]);
    }

    #[test]
    fn other_letters_than_ascii_are_encoded() {
        let subject = "[nöde] Übernahme ".repeat(20);
        let text = encoded(&subject, "größer\nals");
        let (headers, body) = parts(&text);
        assert_eq!(decoded(headers[3].strip_prefix("Subject: ").unwrap()), subject);
        assert_eq!(headers[9], "Content-Transfer-Encoding: base64");
        assert_eq!(STANDARD.decode(body.concat()).unwrap(), "größer\r\nals\r\n".as_bytes());
    }

    proptest! {
        #[test]
        fn any_texts_give_the_same_headers_and_lines_of_ascii(
            subject in "\\PC{0,80}|(\\r|\\n|[ -~]|=|\\?){0,80}|[ -~]{900,2000}",
            text in "(\\r|\\n|\\.|[ -~]|\\PC){0,200}|[ -~]{900,2000}",
            to in proptest::collection::vec("[a-z@.]{1,20}", 1..100),
        ) {
            let bytes = Message { to: to.clone(), ..message(&subject, &text) }.encode();
            let whole = String::from_utf8(bytes).unwrap();
            prop_assert!(whole.is_ascii() && whole.ends_with("\r\n"));
            prop_assert!(!whole.replace("\r\n", "").contains(['\r', '\n', '\0']));
            prop_assert!(whole.split("\r\n").all(|line| line.len() <= LINE_BYTES_MAX));
            let (headers, _) = parts(&whole);
            let names: Vec<&str> = headers.iter().map(|h| h.split_once(": ").unwrap().0).collect();
            prop_assert_eq!(
                names,
                [
                    "Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "X-Mailer", "MIME-Version",
                    "Content-Type", "Content-Transfer-Encoding",
                ]
            );
            prop_assert_eq!(&headers[2], &format!("To: {}", to.join(", ")));
        }
    }
}
