//! Where the text comes from: the trait the caller implements, and the entry point that reads everything.

use alloc::string::String;
use alloc::vec::Vec;

use super::ast::Config;
use super::check;
use super::diagnostic::Diagnostic;
use super::parse::Parser;

/// A file as the loader found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedFile {
    /// Absolute name, for messages and for relative includes (`STDIN` for standard input).
    pub name: String,
    /// Names the file whatever the path, so that none is read twice (real path).
    pub identity: String,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// A file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LoadError {
    /// Why, for people.
    pub reason: String,
}

/// Reads files for the parser, which knows no file system.
pub trait Loader {
    /// Reads `path`, absolute or relative to the working directory; `-` is standard input.
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError>;

    /// Names that match a shell-style pattern (`*`, `?`, `[..]`), sorted; none if nothing matches.
    fn glob(&self, pattern: &str) -> Vec<String>;
}

/// Reads `files` (the configuration, then those of `--config-to-test`) with everything they include, parses
/// and checks them. What holds on every host is checked here; see [`super::check::check_host`] for the rest.
///
/// # Errors
/// All messages, warnings included, if at least one is an error.
pub fn load(loader: &dyn Loader, files: &[&str]) -> Result<Config, Vec<Diagnostic>> {
    load_excluding(loader, files, None)
}

/// [`load`] that skips includes of `exclude` (`--config-to-exclude`).
///
/// # Errors
/// As [`load`].
pub fn load_excluding(
    loader: &dyn Loader,
    files: &[&str],
    exclude: Option<&str>,
) -> Result<Config, Vec<Diagnostic>> {
    let mut config = Parser::run(loader, files, exclude)?;
    let found = check::check(&mut config);
    let (errors, warnings): (Vec<_>, Vec<_>) = found.into_iter().partition(Diagnostic::is_error);
    config.warnings.extend(warnings);
    if errors.is_empty() {
        return Ok(config);
    }
    let mut all = errors;
    all.append(&mut config.warnings);
    Err(all)
}
