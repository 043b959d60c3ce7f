//! Configuration files that include each other; what is accepted is printed, and the print is accepted.

use model::config::{Config, DumpOptions, LoadError, LoadedFile, Loader, dump, load, resolve};

/// The parts of the input between zero bytes, by number.
pub(super) struct Parts<'a>(pub(super) Vec<&'a [u8]>);

impl Loader for Parts<'_> {
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
        let number = path.trim_start_matches('/').parse::<usize>().ok();
        let text =
            number.and_then(|n| self.0.get(n)).ok_or_else(|| LoadError { reason: "no such file".into() })?;
        Ok(LoadedFile { name: format!("/{path}"), identity: path.to_owned(), text: text.to_vec() })
    }

    fn glob(&self, _: &str) -> Vec<String> {
        (0..self.0.len().min(8)).map(|n| n.to_string()).collect()
    }
}

fn read(parts: &Parts<'_>) -> Option<Config> {
    load(parts, &["0"]).ok()
}

/// One input.
pub fn run(data: &[u8]) {
    let Some(config) = read(&Parts(data.split(|b| *b == 0).collect())) else { return };
    for host in ["a", "alice", "n1"] {
        let _ = resolve(&config, host, None);
    }
    for expanded in [false, true] {
        let text = dump(&config, "a", None, DumpOptions { expanded, resources: None });
        let _ = read(&Parts(vec![text.as_bytes()]));
    }
}
