//! What scripts, the FIFO and people are told (failover 1.13).

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

    /// Whether it is a change of the state.
    const fn is_one(self) -> bool {
        match self {
            Transition::Master
            | Transition::Backup
            | Transition::Fault
            | Transition::Stop
            | Transition::Deleted => true,
            Transition::MasterHeardLowerPriority
            | Transition::MasterPriority
            | Transition::BackupPriority => false,
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
    /// `smtp_alert`: people are told too.
    pub mails: bool,
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
        let mails = notify.mails && transition.is_one();
        Notification { who, transition, priority, commands, mails }
    }

    /// Subject and text of the mail, if there is to be one. The subject is the one that keepalived's users sort by.
    pub fn mail(&self) -> Option<(String, String)> {
        if !self.mails {
            return None;
        }
        let word = self.transition.word();
        let (kind, block, name) = match &self.who {
            Who::Instance(name) => ("Instance", "vrrp_instance", name),
            Who::Group(name) => ("Group", "vrrp_sync_group", name),
        };
        let means = match self.transition {
            Transition::Master => "it has the virtual addresses",
            Transition::Backup => "it waits, and does not have the virtual addresses",
            Transition::Fault => "something that it needs is broken; it does not have the virtual addresses",
            Transition::Stop => "the program stops; it does not have the virtual addresses any more",
            Transition::Deleted => "it is no longer in the configuration",
            Transition::MasterHeardLowerPriority
            | Transition::MasterPriority
            | Transition::BackupPriority => return None,
        };
        let priority = match self.who {
            Who::Instance(_) => format!("Priority {}.\n", self.priority),
            Who::Group(_) => String::new(),
        };
        let subject = format!("VRRP {kind} {name} - Entering {word} state");
        Some((subject, format!("{block} {name} is now {word}: {means}.\n{priority}")))
    }

    /// The line for the FIFO, without its end.
    pub fn fifo_line(&self) -> String {
        let (kind, name) = self.who.words();
        format!("{kind} \"{name}\" {} {}", self.transition.word(), self.priority)
    }
}

fn commands(who: &Who, transition: Transition, priority: u8, notify: &Notify) -> Vec<Command> {
    let own = match transition {
        Transition::Master => &notify.master,
        Transition::Backup => &notify.backup,
        Transition::Fault => &notify.fault,
        Transition::Stop => &notify.stop,
        Transition::Deleted => &notify.deleted,
        Transition::MasterHeardLowerPriority => &notify.master_rx_lower_priority,
        // The FIFO only.
        Transition::MasterPriority | Transition::BackupPriority => &None,
    };
    let any = notify.any.iter().filter(|_| transition.is_one()).map(|command| {
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
    fn people_get_mails_of_changes_if_they_want_them() {
        let notify = Notify { mails: true, ..Notify::default() };
        let of = |who, transition| Notification::new(who, transition, 101, &notify).mail();
        let instance = || Who::Instance("VI_1".into());
        assert_eq!(
            of(instance(), Transition::Master),
            Some((
                "VRRP Instance VI_1 - Entering MASTER state".into(),
                "vrrp_instance VI_1 is now MASTER: it has the virtual addresses.\nPriority 101.\n".into()
            ))
        );
        assert_eq!(
            of(Who::Group("G1".into()), Transition::Backup),
            Some((
                "VRRP Group G1 - Entering BACKUP state".into(),
                "vrrp_sync_group G1 is now BACKUP: it waits, and does not have the virtual addresses.\n"
                    .into()
            ))
        );
        for (transition, word) in [
            (Transition::Fault, Some("FAULT")),
            (Transition::Stop, Some("STOP")),
            (Transition::Deleted, Some("DELETED")),
            (Transition::MasterHeardLowerPriority, None),
            (Transition::MasterPriority, None),
            (Transition::BackupPriority, None),
        ] {
            let subject = word.map(|word| format!("VRRP Instance VI_1 - Entering {word} state"));
            assert_eq!(of(instance(), transition).map(|(subject, _)| subject), subject);
        }
        let unwanted = Notification::new(instance(), Transition::Master, 101, &Notify::default());
        assert_eq!(unwanted.mail(), None);
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
