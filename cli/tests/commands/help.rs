//! Every command's `--help`, whole: a change of the command line is seen.

use std::collections::VecDeque;
use std::fmt::Write as _;

use crate::support::Host;

/// The names under `Commands:` in a help text.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    listed.filter_map(|line| line.split_ascii_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_command_says_what_it_does() {
    let host = Host::new();
    let mut all = String::new();
    let mut commands = VecDeque::from([String::new()]);
    while let Some(command) = commands.pop_front() {
        let help = host.ok(&format!("{command} --help"));
        let about = help.lines().next().unwrap();
        assert!(about.starts_with(char::is_uppercase) && !about.starts_with("Usage"), "{command}: {about}");
        commands.extend(subcommands(&help).iter().map(|name| format!("{command} {name}").trim().to_owned()));
        let rule = "-".repeat(80);
        writeln!(all, "{rule}\nhull {command}\n\n{help}\n").unwrap();
    }
    insta::assert_snapshot!("help", all);
}
