//! Golden metadata images as files, and an operator who answers questions.

#![allow(dead_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use replicator::meta::layout::MetaKind;
use tempfile::TempDir;

use crate::meta::{MetaTarget, Opts, Outcome, Prompt};

/// Directory of the recorded data.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metadata").join(name)
}

/// Recorded text.
pub fn golden_text(name: &str) -> String {
    std::fs::read_to_string(golden(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Unpacks a recorded image into `dir`.
pub fn unpack(dir: &TempDir, name: &str) -> PathBuf {
    let image = dir.path().join(format!("{name}.img"));
    let status = Command::new("zstd")
        .args(["-q", "-d", "-f", "--sparse", "-o"])
        .arg(&image)
        .arg(golden(&format!("{name}.img.zst")))
        .status()
        .expect("the program `zstd` is needed: install the Debian package zstd");
    assert!(status.success(), "zstd could not unpack {name}");
    image
}

/// A row of `superblocks.tsv`.
pub struct Row {
    pub columns: Vec<(String, String)>,
}

impl Row {
    pub fn get(&self, column: &str) -> &str {
        &self.columns.iter().find(|(name, _)| name == column).unwrap_or_else(|| panic!("{column}")).1
    }

    /// Name of the image without suffix.
    pub fn image(&self) -> &str {
        self.get("image").trim_end_matches(".img.zst")
    }

    pub fn kind(&self) -> MetaKind {
        match self.get("index") {
            "internal" => MetaKind::Internal,
            "flex-external" => MetaKind::FlexibleExternal,
            n => MetaKind::Indexed(n.parse().unwrap()),
        }
    }
}

/// All rows of `superblocks.tsv`.
pub fn rows() -> Vec<Row> {
    let text = golden_text("superblocks.tsv");
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let rows: Vec<Row> = lines
        .map(|line| Row {
            columns: names
                .iter()
                .zip(line.split('\t'))
                .map(|(n, v)| (n.to_string(), v.to_string()))
                .collect(),
        })
        .collect();
    assert_eq!(rows.len(), 25, "superblocks.tsv is complete");
    rows
}

/// Target of `kind` on one file; external kinds get an unrelated data path.
pub fn target(meta: &Path, kind: MetaKind) -> MetaTarget {
    let data = match kind {
        MetaKind::Internal => meta.to_path_buf(),
        _ => PathBuf::from("/nonexistent-data-device"),
    };
    MetaTarget { data, meta: meta.to_path_buf(), kind }
}

/// Options with `--force`.
pub fn force() -> Opts {
    Opts { force: true, host: "vm".into(), command_line: "lockstep dump-md".into(), ..Opts::default() }
}

/// Collects what is printed and answers from a list.
#[derive(Default)]
pub struct Operator {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    /// `None`: no terminal.
    pub answer: Option<&'static str>,
}

impl Operator {
    /// Types `answer` whenever asked.
    pub fn typing(answer: &'static str) -> Operator {
        Operator { answer: Some(answer), ..Operator::default() }
    }

    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub fn err(&self) -> &str {
        std::str::from_utf8(&self.err).unwrap()
    }
}

impl Prompt for Operator {
    fn out(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    fn err(&mut self) -> &mut dyn Write {
        &mut self.err
    }

    fn is_terminal(&self) -> bool {
        self.answer.is_some()
    }

    fn read_line(&mut self) -> io::Result<String> {
        Ok(format!("{}\n", self.answer.unwrap_or_default()))
    }
}

/// Runs a command; returns exit code, standard output and standard error.
pub fn run(command: impl FnOnce(&mut Operator) -> Outcome) -> (u8, String, String) {
    run_as(Operator::default(), command)
}

/// Runs a command for an operator.
pub fn run_as(mut io: Operator, command: impl FnOnce(&mut Operator) -> Outcome) -> (u8, String, String) {
    let exit = match command(&mut io) {
        Ok(exit) => exit,
        Err(e) => {
            writeln!(io.err, "{e}").unwrap();
            e.exit_code()
        }
    };
    (exit, io.out().to_string(), io.err().to_string())
}

/// `dump-md` without the five header lines.
pub fn body(dump: &str) -> String {
    dump.splitn(6, '\n').nth(5).unwrap_or_default().to_string()
}

/// The text with every `flags` line blanked: the recorded tool prints zero there.
pub fn without_flags(text: &str) -> String {
    text.lines()
        .map(
            |line| if line.starts_with("    flags 0x") { "    flags;\n".into() } else { format!("{line}\n") },
        )
        .collect()
}
