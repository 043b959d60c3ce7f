//! What mails need: who sends them, to whom, and who wants them.

use model::failover::print;

use super::{instance, parse, quiet, said};

const MAIL: &str = "notification_email {\na@example.com root\n}\nsmtp_server 192.0.2.25\n";

#[test]
fn mails_are_for_all_unless_a_block_says_otherwise() {
    let file = |globals: &str, own: &str| format!("global_defs {{\n{MAIL}{globals}\n}}\n{}", instance(own));
    for (globals, own, expected) in [
        ("", "", false),
        ("smtp_alert", "", true),
        ("smtp_alert", "smtp_alert no", false),
        ("", "smtp_alert", true),
        ("smtp_alert_vrrp off\nsmtp_alert on", "", false),
        ("smtp_alert off\nsmtp_alert_vrrp on", "", true),
    ] {
        let config = quiet(&file(globals, own));
        assert_eq!(config.instances[0].notify.mails, expected, "{globals} {own}");
        assert_eq!(config.globals.email_to, ["a@example.com", "root"]);
        assert_eq!(quiet(&print(&config)), config);
    }
    let group = "vrrp_sync_group g {\ngroup {\nVI\nVI2\n}\n}\n";
    let second = instance("").replace("VI {", "VI2 {").replace("_id 5", "_id 6");
    let config = quiet(&(file("smtp_alert", "smtp_alert no") + &second + group));
    assert!(config.sync_groups[0].notify.mails && config.instances[1].notify.mails);
}

#[test]
fn what_would_end_a_line_of_a_mail_is_no_address() {
    const NONE: &str = "is not an address that mail can be sent to";
    let line = |line: &str| said(&format!("global_defs {{\n{line}\n}}\n"));
    let mails = |word: &str| line(&format!("notification_email_from {word}"));
    assert_eq!(mails("\"a@b\\015\\012c\""), [format!("2:25: error: 'a@b\\r\\nc' {NONE}")]);
    for word in ["\"a b@c\"", "a@b@c", "@c", "a@", "<a@b>", "\"A <a@b>\"", "a,b", "b\u{f6}b@c"] {
        assert_eq!(mails(word).len(), 1, "{word}");
        assert!(mails(word)[0].ends_with(NONE), "{word}");
    }
    assert!(mails(&"a".repeat(255))[0].ends_with(NONE));
    assert_eq!(mails("a.b+c=d-e@[192.0.2.1]"), [""; 0]);
    assert_eq!(
        line("notification_email {\na@b <c@d>\n}"),
        [format!("3:5: error: '<c@d>' {NONE}")],
        "each word is one"
    );
    assert_eq!(line("smtp_server mail 0"), ["2:18: error: port 0 is not between 1 and 65535"]);
    assert_eq!(line("smtp_helo_name \"a\\012b\""), ["2:16: error: 'a\\nb' is not the name of a host"]);
}

#[test]
fn mails_that_nobody_gets_are_named_once() {
    const NOBODY: &str = "warning: no mail is sent: it is not said by whom, or to whom";
    let second = instance("").replace("VI {", "VI2 {").replace("_id 5", "_id 6");
    let text = instance("smtp_alert") + &second + "global_defs {\nsmtp_alert yes\n}\n";
    assert_eq!(said(&text), [format!("7:1: {NOBODY}")]);
    let text = "global_defs {\nsmtp_alert yes\nsmtp_server mail.example.com 587\n}\n".to_owned() + &second;
    assert_eq!(said(&text), [format!("2:1: {NOBODY}")]);
    assert!(parse(&text).warnings[0].to_string().contains("add 'notification_email {"));
    let text = "global_defs {\nsmtp_alert yes\n}\n";
    assert_eq!(said(text), [""; 0], "there is nobody who could change");
}
