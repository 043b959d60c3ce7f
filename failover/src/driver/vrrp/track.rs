//! Where the results of trackers come from: scripts that run, files that are read, processes that are counted
//! (failover 1.11). Each has a task of its own, which tells the driver's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use model::failover::config::{FailoverConfig, TrackFile, TrackScript, TrackTarget};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::driver::command::{self, Outcome, Policy};
use crate::vrrp::TrackerResult;

/// How often files are looked at, and processes counted.
const FILES_EVERY: Duration = Duration::from_millis(250);
const PROCESSES_EVERY: Duration = Duration::from_secs(1);

/// Octets of a file that are read: one number has fewer.
const FILE_BYTES_MAX: u64 = 64;

/// Runs everything that an instance or group of a configuration tracks, until it is dropped.
#[derive(Default)]
pub(super) struct Sources(JoinSet<()>);

impl Sources {
    pub(super) fn start(
        config: &FailoverConfig,
        policy: &Policy,
        results: &UnboundedSender<TrackerResult>,
    ) -> Sources {
        let mut tasks = JoinSet::new();
        let own = config.instances.iter().flat_map(|i| &i.trackers);
        let all = own.chain(config.sync_groups.iter().flat_map(|g| &g.trackers));
        let targets: Vec<&TrackTarget> = all.map(|tracker| &tracker.target).collect();
        for script in &config.scripts {
            if targets.contains(&&TrackTarget::Script(script.name.clone())) {
                tasks.spawn_local(run_script(script.clone(), policy.clone(), results.clone()));
            }
        }
        let files =
            config.track_files.iter().filter(|f| targets.contains(&&TrackTarget::File(f.name.clone())));
        let files: Vec<TrackFile> = files.cloned().collect();
        if !files.is_empty() {
            tasks.spawn_local(watch_files(files, results.clone()));
        }
        let processes = config.track_processes.iter();
        let processes = processes.filter(|p| targets.contains(&&TrackTarget::Process(p.name.clone())));
        let processes: Vec<(String, String)> =
            processes.map(|p| (p.name.clone(), p.process.clone())).collect();
        if !processes.is_empty() {
            tasks.spawn_local(count_processes(processes, results.clone()));
        }
        Sources(tasks)
    }

    /// Ends all of them.
    pub(super) fn stop(&mut self) {
        self.0.abort_all();
    }
}

async fn run_script(script: TrackScript, policy: Policy, results: UnboundedSender<TrackerResult>) {
    let mut every = tokio::time::interval(script.interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        every.tick().await;
        let run = command::run(&script.command, &policy, script.timeout).await;
        let said = match &run {
            Ok(Outcome::Success | Outcome::Failure) => None,
            Ok(Outcome::TimedOut) => Some(format!("ran for more than {:?} and was killed", script.timeout)),
            Err(e) => Some(e.to_string()),
        };
        if let Some(text) = said.as_ref().filter(|_| said != trouble) {
            tracing::warn!("vrrp_script {}: {text}", script.name);
        }
        trouble = said;
        let success = matches!(run, Ok(Outcome::Success));
        if results.send(TrackerResult::Script { name: script.name.clone(), success }).is_err() {
            return;
        }
    }
}

/// What shows that a file has changed.
type Mark = (i64, i64, u64, u64);

async fn watch_files(files: Vec<TrackFile>, results: UnboundedSender<TrackerResult>) {
    files.iter().for_each(init_file);
    let mut seen: BTreeMap<String, Option<Mark>> = BTreeMap::new();
    loop {
        // Somewhere else: a file may be on a disk that does not answer.
        let (mine, before) = (files.clone(), seen.clone());
        let Ok((now, news)) = tokio::task::spawn_blocking(move || look_at(&mine, before)).await else {
            return;
        };
        seen = now;
        for (name, value) in news {
            if results.send(TrackerResult::File { name, value }).is_err() {
                return;
            }
        }
        tokio::time::sleep(FILES_EVERY).await;
    }
}

/// `init_file`.
fn init_file(file: &TrackFile) {
    let Some((value, overwrites)) = file.init else { return };
    if !overwrites && fs::exists(&file.path).unwrap_or(true) {
        return;
    }
    if let Err(e) = fs::write(&file.path, format!("{value}\n")) {
        tracing::error!("track_file {}: cannot write {}: {e}", file.name, file.path);
    }
}

type Marks = BTreeMap<String, Option<Mark>>;

fn look_at(files: &[TrackFile], mut seen: Marks) -> (Marks, Vec<(String, i64)>) {
    let mut news = Vec::new();
    for file in files {
        let mark = fs::metadata(&file.path).ok();
        let mark = mark.map(|m| (m.mtime(), m.mtime_nsec(), m.ino(), m.len()));
        if seen.insert(file.name.clone(), mark) != Some(mark) {
            news.push((file.name.clone(), mark.map_or(0, |_| number_in(&file.path))));
        }
    }
    (seen, news)
}

fn number_in(path: &str) -> i64 {
    use std::io::Read;
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|f| f.take(FILE_BYTES_MAX).read_to_string(&mut text));
    let number = read.ok().and_then(|_| text.split_whitespace().next()?.parse().ok());
    if number.is_none() && !text.trim().is_empty() {
        tracing::warn!("{path}: there is no number in it, which counts as 0");
    }
    number.unwrap_or(0)
}

async fn count_processes(processes: Vec<(String, String)>, results: UnboundedSender<TrackerResult>) {
    let wanted: BTreeSet<String> = processes.iter().map(|(_, process)| process.clone()).collect();
    loop {
        let wanted = wanted.clone();
        let Ok(counts) = tokio::task::spawn_blocking(move || count(&wanted)).await else { return };
        for (name, process) in &processes {
            let running = counts.get(process).copied().unwrap_or(0);
            if results.send(TrackerResult::Process { name: name.clone(), running }).is_err() {
                return;
            }
        }
        tokio::time::sleep(PROCESSES_EVERY).await;
    }
}

fn count(wanted: &BTreeSet<String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        // Empty for the kernel's own and for zombies, which do nothing any more.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        for process in wanted.iter().filter(|process| is_process(process, &words)) {
            *counts.entry(process.clone()).or_default() += 1;
        }
    }
    counts
}

/// With arguments all words have to be the same, with a path the program's name as it was called, else its last part.
fn is_process(wanted: &str, words: &[String]) -> bool {
    let Some(program) = words.first().filter(|program| !program.is_empty()) else { return false };
    if wanted.split_whitespace().count() > 1 {
        let words = words.iter().map(String::as_str).filter(|word| !word.is_empty());
        return words.eq(wanted.split_whitespace());
    }
    if wanted.contains('/') { program == wanted } else { program.rsplit('/').next() == Some(wanted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).chain([String::new()]).collect()
    }

    #[test]
    fn processes_are_known_by_name_path_or_line() {
        let line = words("/usr/sbin/haproxy -f /etc/haproxy.cfg");
        for wanted in ["haproxy", "/usr/sbin/haproxy", "/usr/sbin/haproxy -f /etc/haproxy.cfg"] {
            assert!(is_process(wanted, &line), "{wanted}");
        }
        for wanted in ["haprox", "/sbin/haproxy", "haproxy -f", "/usr/sbin/haproxy -f"] {
            assert!(!is_process(wanted, &line), "{wanted}");
        }
        assert!(!is_process("haproxy", &[String::new()]));
        let own = std::env::args().next().unwrap().rsplit('/').next().unwrap().to_owned();
        assert_eq!(count(&[own.clone()].into()).get(&own).copied().unwrap_or(0).min(1), 1);
    }

    #[test]
    fn a_file_is_read_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f").display().to_string();
        let file = TrackFile {
            name: "f".into(),
            path: path.clone(),
            weight: 1,
            reverse: false,
            init: Some((3, false)),
        };
        let files = [file];
        let (seen, news) = look_at(&files, Marks::new());
        assert_eq!(news, [("f".to_owned(), 0)], "there is none yet");
        init_file(&files[0]);
        let (seen, news) = look_at(&files, seen);
        assert_eq!(news, [("f".to_owned(), 3)]);
        assert_eq!(look_at(&files, seen.clone()).1, []);
        fs::write(&path, "-20 and more").unwrap();
        let (seen, news) = look_at(&files, seen);
        assert_eq!(news, [("f".to_owned(), -20)]);
        fs::write(&path, "nothing").unwrap();
        assert_eq!(look_at(&files, seen).1, [("f".to_owned(), 0)]);
    }
}
