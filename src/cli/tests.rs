//! Command lines as drbdadm's users write them.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    Cli::try_parse_from(arguments::normalize(&args, &Cli::command()))
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn both_forms_of_force_are_one() {
    for line in [
        "lockstep primary --force r0",
        "lockstep --force primary r0",
        "lockstep primary r0 --overwrite-data-of-peer",
        "lockstep -- --overwrite-data-of-peer primary r0",
        "lockstep -W--force primary r0",
        "lockstep primary r0 --overwrite-data-of-peer=yes",
    ] {
        let cli = parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let Verb::Primary { names, force } = cli.verb else { panic!("{line}: {:?}", cli.verb) };
        assert!(force && names.names == ["r0"], "{line}");
    }
}

#[test]
fn flags_are_written_as_drbdsetup_writes_them() {
    for (flag, wanted) in [
        ("", false),
        (" --wait-after-sb", true),
        (" --wait-after-sb=yes", true),
        (" --wait-after-sb=no", false),
    ] {
        for verb in ["wait-connect", "wait-sync"] {
            let cli = parse(&format!("lockstep {verb} --wfc-timeout=5{flag} r0")).unwrap();
            let (Verb::WaitConnect(w) | Verb::WaitSync(w)) = cli.verb else { panic!("{:?}", cli.verb) };
            assert_eq!((w.wfc_timeout, w.wait_after_sb), (Some(5), wanted), "{verb}{flag}");
        }
    }
    for line in [
        "connect --discard-my-data=yes --dry-run=no",
        "disconnect --force=yes",
        "detach --force=no",
        "resize --assume-clean=yes --assume-peer-has-space=yes",
        "new-current-uuid --clear-bitmap=yes",
        "create-md --force=yes",
    ] {
        assert!(parse(&format!("lockstep {line} r0")).is_ok(), "{line}");
    }
    let cli = parse("lockstep connect --discard-my-data=yes --dry-run=no r0").unwrap();
    let Verb::Connect { discard_my_data, tentative, .. } = cli.verb else { panic!("{:?}", cli.verb) };
    assert!(discard_my_data && !tentative);
    assert!(parse("lockstep wait-connect --wait-after-sb=perhaps r0").is_err());
}

#[test]
fn global_options_stand_before_and_after() {
    for line in ["lockstep -c f --host h up r0 r1", "lockstep up -c f r0 --host h r1"] {
        let cli = parse(line).unwrap();
        assert_eq!((cli.global.config.as_deref(), cli.global.host.as_deref()), (Some("f"), Some("h")));
        let Verb::Up(n) = cli.verb else { panic!("{:?}", cli.verb) };
        assert_eq!(n.names, ["r0", "r1"]);
    }
}

#[test]
fn sizes_of_resize_are_those_of_the_files() {
    for (text, wanted) in [("12M", 24576), ("100s", 100), ("10", 10), ("10k", 20), ("1G", 1 << 21)] {
        let line = format!("lockstep -- --size={text} resize r0");
        let cli = parse(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let Verb::Resize { size, assume_clean, .. } = cli.verb else { panic!("{line}") };
        assert_eq!((size, assume_clean), (Some(wanted), false), "{line}");
    }
    assert!(parse("lockstep resize --size=12X r0").is_err());
    assert!(parse("lockstep resize --assume-clean --assume-peer-has-space r0").is_ok());
}

#[test]
fn names_are_needed_where_drbdadm_needs_them() {
    assert!(parse("lockstep up").is_err());
    assert!(parse("lockstep status").is_ok());
    assert!(parse("lockstep dump").is_ok());
    assert!(parse("lockstep frobnicate r0").is_err());
    assert!(parse("lockstep primary --frob r0").is_err());
}
