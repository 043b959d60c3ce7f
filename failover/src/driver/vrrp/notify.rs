//! Scripts, FIFOs and people that are told of transitions (failover 1.13).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use model::failover::config::FailoverConfig;
use nix::sys::stat::Mode;
use tokio::task::JoinSet;

use crate::driver::command::{self, Policy};
use crate::driver::mail::Mailer;
use crate::vrrp::{Notification, Transition};

/// How long the scripts of a stop are waited for.
const STOP_SCRIPTS: Duration = Duration::from_secs(1);

/// Tells scripts, FIFOs and people.
#[derive(Default)]
pub(super) struct Notifier {
    policy: Policy,
    /// Who sends mails, if there are any.
    mailer: Option<Mailer>,
    /// `no_email_faults`.
    no_mails_of_faults: bool,
    fifos: BTreeMap<String, Fifo>,
    scripts: JoinSet<()>,
    stop_scripts: JoinSet<()>,
}

struct Fifo {
    file: File,
    /// It was not there before.
    is_ours: bool,
    /// Its reader does not read; said once.
    is_full: bool,
}

impl Notifier {
    /// One that has mails sent.
    pub(super) fn new(mailer: Option<Mailer>) -> Notifier {
        Notifier { mailer, ..Notifier::default() }
    }

    /// Opens the FIFOs of a configuration and closes others.
    pub(super) fn configure(&mut self, config: &FailoverConfig, policy: Policy) {
        self.policy = policy;
        self.no_mails_of_faults = config.globals.no_email_faults;
        if let Some(mailer) = &self.mailer {
            mailer.configure(&config.globals);
        }
        let wanted = &config.globals.notify_fifos;
        let gone: Vec<String> = self.fifos.keys().filter(|path| !wanted.contains(path)).cloned().collect();
        gone.iter().for_each(|path| self.close(path));
        for path in wanted {
            if self.fifos.contains_key(path) {
                continue;
            }
            match Fifo::open(Path::new(path)) {
                Ok(fifo) => {
                    self.fifos.insert(path.clone(), fifo);
                }
                Err(e) => tracing::error!("notify_fifo {path}: {e}; nobody is told by it"),
            }
        }
    }

    /// Tells of one transition; waits for nobody.
    pub(super) fn tell(&mut self, notification: &Notification) {
        let line = notification.fifo_line() + "\n";
        self.fifos.iter_mut().for_each(|(path, fifo)| fifo.write(path, &line));
        self.mail(notification);
        while self.scripts.try_join_next().is_some() {}
        for command in &notification.commands {
            match command::start(command, &self.policy) {
                Ok(mut child) => {
                    let waits = async move {
                        let _ = child.wait().await;
                    };
                    let is_stop = notification.transition == Transition::Stop;
                    let scripts = if is_stop { &mut self.stop_scripts } else { &mut self.scripts };
                    scripts.spawn_local(waits);
                }
                Err(e) => tracing::error!("notify script: {e}"),
            }
        }
    }

    fn mail(&self, notification: &Notification) {
        if self.no_mails_of_faults && notification.transition == Transition::Fault {
            return;
        }
        if let (Some(mailer), Some((subject, text))) = (&self.mailer, notification.mail()) {
            mailer.send(&subject, &text);
        }
    }

    /// The end: waits for the scripts of the stop, but not for long; other scripts go on by themselves.
    pub(super) async fn finish(&mut self) {
        let all = async { while self.stop_scripts.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_SCRIPTS, all).await.is_err() {
            tracing::warn!(
                "notify_stop: scripts run for more than {STOP_SCRIPTS:?}; they are not waited for"
            );
        }
        let paths: Vec<String> = self.fifos.keys().cloned().collect();
        paths.iter().for_each(|path| self.close(path));
    }

    fn close(&mut self, path: &str) {
        if self.fifos.remove(path).is_some_and(|fifo| fifo.is_ours) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Fifo {
    fn open(path: &Path) -> io::Result<Fifo> {
        let is_ours = match nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o644)) {
            Ok(()) => true,
            Err(nix::Error::EEXIST) => false,
            Err(e) => return Err(e.into()),
        };
        // For reading too: else it could not be opened before its reader, and what is written would be lost with it.
        let file =
            std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("it is there and is no FIFO"));
        }
        Ok(Fifo { file, is_ours, is_full: false })
    }

    /// A line is shorter than PIPE_BUF: it goes as a whole or not at all.
    fn write(&mut self, path: &str, line: &str) {
        match self.file.write_all(line.as_bytes()) {
            Ok(()) => self.is_full = false,
            Err(e) if !self.is_full => {
                tracing::warn!("notify_fifo {path}: {e}: nobody reads it; lines are lost from now on");
                self.is_full = true;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use model::failover::config::Notify;

    use super::*;
    use crate::vrrp::Who;

    #[test]
    fn a_fifo_keeps_the_order_and_goes_with_its_maker() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo").display().to_string();
        let mut config = FailoverConfig::default();
        config.globals.notify_fifos = vec![path.clone()];
        let mut notifier = Notifier::default();
        notifier.configure(&config, Policy::default());
        for (transition, priority) in [(Transition::Backup, 100), (Transition::Master, 101)] {
            let who = Who::Instance("VI_1".into());
            notifier.tell(&Notification::new(who, transition, priority, &Notify::default()));
        }
        let mut text = [0; 200];
        let mut reader =
            std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let length = reader.read(&mut text).unwrap();
        assert_eq!(&text[..length], b"INSTANCE \"VI_1\" BACKUP 100\nINSTANCE \"VI_1\" MASTER 101\n");
        config.globals.notify_fifos.clear();
        notifier.configure(&config, Policy::default());
        assert!(!Path::new(&path).exists());
    }
}
