//! What scripts and the FIFO are told (failover 1.13).

use std::sync::Arc;

use model::failover::config::{Command, Notify};

/// Who changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// A `vrrp_instance`.
    Instance(Arc<str>),
    /// A `vrrp_sync_group`.
    Group(Arc<str>),
}

/// To what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Transition {
    /// It has the addresses.
    Master,
    /// It waits.
    Backup,
    /// Something that it needs is broken.
    Fault,
    /// The program stops.
    Stop,
    /// It is no longer in the configuration.
    Deleted,
    /// No transition: a master heard a lower priority.
    MasterHeardLowerPriority,
    /// No transition: the priority of a master changed.
    MasterPriority,
    /// No transition: the priority of a backup changed.
    BackupPriority,
}

impl Transition {
    /// The word in the FIFO and in the arguments of `notify`.
    pub const fn word(self) -> &'static str {
        match self {
            Transition::Master => "MASTER",
            Transition::Backup => "BACKUP",
            Transition::Fault => "FAULT",
            Transition::Stop => "STOP",
            Transition::Deleted => "DELETED",
            Transition::MasterHeardLowerPriority => "MASTER_RX_LOWER_PRI",
            Transition::MasterPriority => "MASTER_PRIORITY",
            Transition::BackupPriority => "BACKUP_PRIORITY",
        }
    }
}

/// One notification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// Who.
    pub who: Who,
    /// To what.
    pub transition: Transition,
    /// The priority then; 0 for groups.
    pub priority: u8,
    /// What to run, which may run at the same time; only that of a stop is waited for. Made when it happens: afterwards
    /// the instance may be gone.
    pub commands: Vec<Command>,
}

impl Who {
    fn words(&self) -> (&'static str, &str) {
        match self {
            Who::Instance(name) => ("INSTANCE", name),
            Who::Group(name) => ("GROUP", name),
        }
    }
}

impl Notification {
    /// With the commands that the configuration has for it.
    pub fn new(who: Who, transition: Transition, priority: u8, notify: &Notify) -> Notification {
        let commands = commands(&who, transition, priority, notify);
        Notification { who, transition, priority, commands }
    }

    /// The line for the FIFO, without its end.
    pub fn fifo_line(&self) -> String {
        let (kind, name) = self.who.words();
        format!("{kind} \"{name}\" {} {}", self.transition.word(), self.priority)
    }
}

fn commands(who: &Who, transition: Transition, priority: u8, notify: &Notify) -> Vec<Command> {
    let (own, with_any) = match transition {
        Transition::Master => (&notify.master, true),
        Transition::Backup => (&notify.backup, true),
        Transition::Fault => (&notify.fault, true),
        Transition::Stop => (&notify.stop, true),
        Transition::Deleted => (&notify.deleted, true),
        Transition::MasterHeardLowerPriority => (&notify.master_rx_lower_priority, false),
        // The FIFO only.
        Transition::MasterPriority | Transition::BackupPriority => (&None, false),
    };
    let any = notify.any.iter().filter(|_| with_any).map(|command| {
        let (kind, name) = who.words();
        let mut command = command.clone();
        command.words.extend([kind, name, transition.word()].map(String::from));
        command.words.push(priority.to_string());
        command
    });
    own.iter().cloned().chain(any).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Option<Command> {
        Some(Command { words: words.iter().map(|w| (*w).to_owned()).collect(), user: None })
    }

    #[test]
    fn the_fifo_and_the_scripts_are_told_in_the_words_of_keepalived() {
        let notify = Notify {
            master: command(&["n", "became", "master"]),
            master_rx_lower_priority: command(&["lower"]),
            any: command(&["n", "extra"]),
            ..Notify::default()
        };
        let of = |who, transition, priority| Notification::new(who, transition, priority, &notify);
        let words =
            |n: &Notification| -> Vec<String> { n.commands.iter().map(|c| c.words.join(" ")).collect() };
        let instance = || Who::Instance("VI_1".into());
        let master = of(instance(), Transition::Master, 101);
        assert_eq!(master.fifo_line(), "INSTANCE \"VI_1\" MASTER 101");
        assert_eq!(words(&master), ["n became master", "n extra INSTANCE VI_1 MASTER 101"]);
        let fault = of(Who::Group("G1".into()), Transition::Fault, 0);
        assert_eq!(fault.fifo_line(), "GROUP \"G1\" FAULT 0");
        assert_eq!(words(&fault), ["n extra GROUP G1 FAULT 0"]);
        let lower = of(instance(), Transition::MasterHeardLowerPriority, 101);
        assert_eq!(lower.fifo_line(), "INSTANCE \"VI_1\" MASTER_RX_LOWER_PRI 101");
        assert_eq!(words(&lower), ["lower"]);
        assert_eq!(words(&of(instance(), Transition::BackupPriority, 9)), Vec::<String>::new());
    }
}
