//! Resource files on the file system: what `model::config` reads through (drbd-admin 1.2).

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{env, fs, io, path};

use model::config::{LoadError, LoadedFile, Loader};

/// Reads no more than this of a file; the parser refuses anything near it.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// The file system as a source of resource files.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSystem;

impl Loader for FileSystem {
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
        read(path).map_err(|error| LoadError { reason: error.to_string() })
    }

    fn glob(&self, pattern: &str) -> Vec<String> {
        glob(pattern)
    }
}

/// The first default configuration file that exists, the one of 8.4 before the generic name, else the generic
/// name (drbd-admin 1.1).
pub fn default_config_file() -> &'static str {
    const NAMES: &[&str] = &[
        "/etc/drbd-84.conf",
        "/etc/drbd-83.conf",
        "/etc/drbd-82.conf",
        "/etc/drbd-08.conf",
        "/etc/drbd.conf",
    ];
    NAMES.iter().find(|name| Path::new(name).exists()).unwrap_or(&"/etc/drbd.conf")
}

fn read(path: &str) -> io::Result<LoadedFile> {
    if path == "-" {
        let text = read_limited(io::stdin().lock())?;
        return Ok(LoadedFile { name: "STDIN".to_owned(), identity: "-".to_owned(), text });
    }
    let text = read_limited(fs::File::open(path)?)?;
    let identity = fs::canonicalize(path)?.to_string_lossy().into_owned();
    Ok(LoadedFile { name: absolute(Path::new(path))?.to_string_lossy().into_owned(), identity, text })
}

fn read_limited(source: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    source.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Absolute, without `.`; links and `..` stay as written, as users know the file by that name.
fn absolute(name: &Path) -> io::Result<PathBuf> {
    path::absolute(name).or_else(|_| env::current_dir().map(|dir| dir.join(name)))
}

/// Existing names that match, sorted by bytes. Metacharacters never match `/`, nor a leading dot.
fn glob(pattern: &str) -> Vec<String> {
    let (root, rest) = match pattern.strip_prefix('/') {
        Some(rest) => (PathBuf::from("/"), rest),
        None => (PathBuf::new(), pattern),
    };
    let mut found = vec![root];
    for component in rest.split('/').filter(|c| !c.is_empty()) {
        found = if component.contains(['*', '?', '[', '\\']) {
            found.iter().flat_map(|dir| matching_entries(dir, component)).collect()
        } else {
            found.into_iter().map(|dir| dir.join(component)).collect()
        };
    }
    let mut names: Vec<String> =
        found.iter().filter(|p| p.exists()).filter_map(|p| p.to_str().map(str::to_owned)).collect();
    names.sort_unstable();
    names
}

fn matching_entries(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(entries) = fs::read_dir(listed) else { return Vec::new() };
    let fits = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        (!name.starts_with(b".") || pattern.starts_with('.')) && matches(pattern.as_bytes(), name)
    };
    entries.flatten().map(|e| e.file_name()).filter(|name| fits(name)).map(|name| dir.join(name)).collect()
}

/// Shell-style match of a whole name. Linear in the name for each star, whatever the pattern: only the last
/// star is ever tried again.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        match match_one(&pattern[p..], name[n]) {
            Some(len) => {
                p += len;
                n += 1;
            }
            None => match star {
                Some((after, from)) => {
                    p = after;
                    n = from + 1;
                    star = Some((after, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// How many bytes of the pattern matched `byte`; `None` if they do not.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => match match_set(set, byte) {
            Some((len, true)) => Some(len + 1),
            Some((_, false)) => None,
            // Without its closing bracket it is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// A set behind its `[`: its length with the `]` and whether it has `byte`; `None` if it is not closed.
fn match_set(set: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        match *set.get(at)? {
            b']' if at > first => return Some((at + 1, found != negated)),
            low => match set.get(at + 1..at + 3) {
                Some([b'-', high]) if *high != b']' => {
                    found |= (low..=*high).contains(&byte);
                    at += 3;
                }
                _ => {
                    found |= low == byte;
                    at += 1;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_a_shell() {
        let yes = [
            ("*.res", "a.res"),
            ("*", "x"),
            ("a*b*c", "aXbYbc"),
            ("?.res", "x.res"),
            ("[a-c]1", "b1"),
            ("[!a-c]1", "d1"),
            ("[]x]", "]"),
            ("a\\*", "a*"),
            ("[", "["),
            ("a**", "a"),
            ("[a-]", "-"),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        let no = [("*.res", "a.res~"), ("?", ""), ("[a-c]", "d"), ("[!a]", "a"), ("a\\*", "ab"), ("", "a")];
        for (pattern, name) in no {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        let stars = "*a".repeat(60);
        assert!(!matches(stars.as_bytes(), "a".repeat(59).as_bytes()), "and it ends soon");
    }

    #[test]
    fn glob_lists_sorted_existing_names_without_hidden_ones() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["b.res", "a.res", ".hidden.res", "c.conf"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let base = dir.path().to_str().expect("plain name");
        assert_eq!(glob(&format!("{base}/*.res")), [format!("{base}/a.res"), format!("{base}/b.res")]);
        assert_eq!(glob(&format!("{base}/.h*")), [format!("{base}/.hidden.res")]);
        assert_eq!(glob(&format!("{base}/*/x")), [] as [String; 0]);
        assert_eq!(glob(&format!("{base}/nosuch")), [] as [String; 0]);
    }

    #[test]
    fn the_same_file_has_one_identity_under_all_its_names() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::write(&one, "global { }").expect("written");
        std::os::unix::fs::symlink(&one, &two).expect("linked");
        let read = |p: &Path| FileSystem.read(p.to_str().expect("plain name")).expect("readable");
        assert_eq!(read(&one).identity, read(&two).identity);
        assert_ne!(read(&one).name, read(&two).name);
        assert!(FileSystem.read(dir.path().join("no").to_str().expect("plain name")).is_err());
    }
}
