//! The server's answers (RFC 5321 4.2). They come from outside: lines, their number and their length are bounded.

use super::message::without_controls;

/// Octets of a line at most; the standard has 512.
const LINE_BYTES_MAX: usize = 2048;
/// Lines of one answer at most.
const LINES_MAX: usize = 128;
/// Characters of an answer that are kept for people to read.
const TEXT_CHARS_MAX: usize = 200;

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Its last line behind the code, without control characters, cut.
    pub text: String,
}

/// Why something is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyError {
    /// Not a code of three digits and a text, or another code than in the line before.
    #[error("'{0}' is no answer of SMTP")]
    Malformed(String),
    /// Nobody needs so much.
    #[error("an answer has more than {LINES_MAX} lines, or one of more than {LINE_BYTES_MAX} octets")]
    TooLong,
}

/// Takes octets and gives answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Replies {
    line: Vec<u8>,
    lines: usize,
    code: Option<u16>,
}

impl Replies {
    /// Takes one octet; an answer if it was the last one of it.
    pub fn push(&mut self, octet: u8) -> Result<Option<Reply>, ReplyError> {
        if octet != b'\n' {
            self.line.push(octet);
            return if self.line.len() > LINE_BYTES_MAX { Err(ReplyError::TooLong) } else { Ok(None) };
        }
        let line = std::mem::take(&mut self.line);
        self.lines += 1;
        assert!(line.len() <= LINE_BYTES_MAX, "a longer line was refused");
        if self.lines > LINES_MAX {
            return Err(ReplyError::TooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let (code, is_last, text) = parts(line).ok_or_else(|| ReplyError::Malformed(readable(line)))?;
        if self.code.is_some_and(|before| before != code) {
            return Err(ReplyError::Malformed(readable(line)));
        }
        if !is_last {
            self.code = Some(code);
            return Ok(None);
        }
        (self.lines, self.code) = (0, None);
        Ok(Some(Reply { code, text: readable(text) }))
    }
}

/// The code, whether this is the last line, and the text.
fn parts(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok()?;
    let code: u16 = code.bytes().all(|b| b.is_ascii_digit()).then(|| code.parse().ok())??;
    if !(200..600).contains(&code) {
        return None;
    }
    match rest {
        [] => Some((code, true, rest)),
        [b' ', text @ ..] => Some((code, true, text)),
        [b'-', text @ ..] => Some((code, false, text)),
        _ => None,
    }
}

/// What can be put into a line of a log.
fn readable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    without_controls(&text).trim().chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(u16, String)>, ReplyError> {
        let mut replies = Replies::default();
        let mut all = Vec::new();
        for octet in bytes {
            all.extend(replies.push(*octet)?.map(|reply| (reply.code, reply.text)));
        }
        Ok(all)
    }

    #[test]
    fn answers_have_one_line_or_more() {
        let one = |code, text: &str| (code, text.to_owned());
        assert_eq!(
            all(b"220 mail ESMTP\r\n250-mail\r\n250-SIZE\r\n250 HELP\r\n"),
            Ok(vec![one(220, "mail ESMTP"), one(250, "HELP")])
        );
        assert_eq!(
            all(b"354\r\n250 \n250-"),
            Ok(vec![one(354, ""), one(250, "")]),
            "an end without CR is one"
        );
        assert_eq!(all(b"550 \x1b[31m\xff no\x07\r\n"), Ok(vec![one(550, "[31m\u{fffd} no")]));
        let long = [b"250 ".as_slice(), &[b'x'; 500], b"\r\n"].concat();
        assert_eq!(all(&long).unwrap()[0].1.len(), TEXT_CHARS_MAX);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for line in
            ["", "25", "2x0 a", "+20 a", "199 a", "600 a", "250a", "SSH-2.0-OpenSSH_9.2", "250-a\r\n251 b"]
        {
            let refused = all(format!("{line}\r\n").as_bytes());
            assert!(matches!(refused, Err(ReplyError::Malformed(_))), "{line}: {refused:?}");
        }
        let lines = |count: usize| all("250-x\r\n".repeat(count).as_bytes());
        assert_eq!((lines(LINES_MAX), lines(LINES_MAX + 1)), (Ok(vec![]), Err(ReplyError::TooLong)));
        assert_eq!(all(&[b'2'; LINE_BYTES_MAX]), Ok(vec![]));
        assert_eq!(all(&[b'2'; LINE_BYTES_MAX + 1]), Err(ReplyError::TooLong));
    }
}
