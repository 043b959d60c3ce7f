//! Brings a command line into the form clap understands: drbdadm's options may stand anywhere, also before the
//! command, and in the old form behind `--`; flags may have a value (drbd-admin 3.1, 3.6, 3.7).

use std::collections::BTreeSet;

use clap::{Arg, ArgAction, Command};

/// `lockstep [options] COMMAND [options] names` as `lockstep COMMAND [options] names`. The first word that is
/// neither an option nor the value of one is the command. `--` before the command and `-W` in front of an option
/// have no meaning of their own here, since every option is known. `--flag=yes` is `--flag`, `--flag=no` is nothing.
pub fn normalize(args: &[String], command: &Command) -> Vec<String> {
    let Some((program, rest)) = args.split_first() else { return Vec::new() };
    let with_value = options_with_value(command);
    let flags = flags(command);
    let passed_on = |arg: &str| without_value(passed_on(arg), &flags);
    let mut before = Vec::new();
    let mut rest = rest.iter();
    let mut out = vec![program.clone()];
    while let Some(arg) = rest.next() {
        if arg == "--" {
            continue;
        }
        if !arg.starts_with('-') || arg == "-" {
            out.push(arg.clone());
            break;
        }
        before.extend(passed_on(arg));
        if with_value.contains(arg.as_str())
            && let Some(value) = rest.next()
        {
            before.push(value.clone());
        }
    }
    out.append(&mut before);
    out.extend(rest.filter(|arg| *arg != "--").filter_map(|arg| passed_on(arg)));
    out
}

/// `-W--force` is `--force`.
fn passed_on(arg: &str) -> String {
    arg.strip_prefix("-W").unwrap_or(arg).to_owned()
}

/// A flag as clap knows it, which has no value; any other word as it is. Other values are refused with the word.
// spec: drbd-admin 3.6, 4.2
fn without_value(arg: String, flags: &BTreeSet<String>) -> Option<String> {
    match arg.split_once('=') {
        Some((flag, "yes")) if flags.contains(flag) => Some(flag.to_owned()),
        Some((flag, "no")) if flags.contains(flag) => None,
        _ => Some(arg),
    }
}

fn all_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments))
}

fn flags(command: &Command) -> BTreeSet<String> {
    let flags = all_arguments(command).filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
    let names = |arg: &Arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases).map(|name| format!("--{name}")).collect::<Vec<_>>()
    };
    flags.flat_map(names).collect()
}

fn options_with_value(command: &Command) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for arg in all_arguments(command).filter(|arg| takes_value(arg)) {
        names.extend(arg.get_short().map(|c| format!("-{c}")));
        names
            .extend(arg.get_long_and_visible_aliases().into_iter().flatten().map(|name| format!("--{name}")));
    }
    names
}

fn takes_value(arg: &Arg) -> bool {
    !arg.is_positional() && arg.get_action().takes_values()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("lockstep")
            .arg(Arg::new("config").short('c').long("config").global(true))
            .subcommand(
                Command::new("primary").arg(Arg::new("force").long("force").action(ArgAction::SetTrue)),
            )
            .subcommand(Command::new("demo").arg(Arg::new("size").long("size")))
    }

    fn normal(line: &str) -> String {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        normalize(&args, &command()).join(" ")
    }

    #[test]
    fn options_may_stand_anywhere() {
        assert_eq!(normal("x primary --force r0"), "x primary --force r0");
        assert_eq!(normal("x --force primary r0"), "x primary --force r0");
        assert_eq!(normal("x -c f primary r0 --force"), "x primary -c f r0 --force");
        assert_eq!(normal("x --config=f primary r0"), "x primary --config=f r0");
        assert_eq!(normal("x --size 9M demo"), "x demo --size 9M");
        assert_eq!(normal("x -c - primary r0"), "x primary -c - r0");
    }

    #[test]
    fn the_old_form_means_the_same() {
        assert_eq!(
            normal("x -- --overwrite-data-of-peer primary r0"),
            "x primary --overwrite-data-of-peer r0"
        );
        assert_eq!(normal("x -W--force primary r0"), "x primary --force r0");
        assert_eq!(normal("x primary -- --force r0"), "x primary --force r0");
    }

    #[test]
    fn flags_may_say_yes_or_no() {
        assert_eq!(normal("x primary --force=yes r0"), "x primary --force r0");
        assert_eq!(normal("x -- --force=no primary r0"), "x primary r0");
        assert_eq!(normal("x -W--force=yes primary r0"), "x primary --force r0");
        assert_eq!(normal("x primary --force=perhaps r0"), "x primary --force=perhaps r0");
        assert_eq!(normal("x demo --size=yes"), "x demo --size=yes");
    }

    #[test]
    fn odd_lines_survive() {
        assert_eq!(normalize(&[], &command()), [] as [&str; 0]);
        assert_eq!(normal("x"), "x");
        assert_eq!(normal("x -c"), "x -c");
        assert_eq!(normal("x -h"), "x -h");
    }
}
