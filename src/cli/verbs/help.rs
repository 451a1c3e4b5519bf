//! Which flags the help of a command shows.
//!
//! Every command takes every flag, so that a script can give the same ones to all of them. Most mean something to some
//! commands only, and the help of the others leaves them out.

use super::Command;
use crate::cli::shown::{NodeFlags, Shown};

/// Flags that say which node is meant.
const WHICH: &[&str] = &["data_dir", "config"];
/// Flags that say what of folders is shared.
const SELECT: &[&str] = &["exclude", "hidden", "no_ignore"];
/// Flags of a node that lives for one command: how it enters the network.
const ENTER: &[&str] = &["data_dir", "config", "master", "bootstrap", "listen", "network", "no_mdns"];

/// Hides what has no meaning for a command from its help.
pub(in crate::cli) fn tidy(command: clap::Command) -> clap::Command {
    let flags: Vec<_> = command.get_arguments().filter(|flag| flag.is_global_set()).cloned().collect();
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.iter().fold(command, |command, name| {
        let shown = Command::shown(name);
        // One that a command has by itself is not handed down to it.
        let hidden = flags.iter().filter(|flag| !is_shown(shown, flag.get_id().as_str()));
        command.mut_subcommand(name, |sub| sub.args(hidden.map(|flag| flag.clone().hide(true))))
    })
}

fn is_shown(shown: Shown, flag: &str) -> bool {
    match flag {
        "log_format" => true,
        "verbose" => shown.verbose,
        "json" => shown.json,
        flag => match shown.node {
            NodeFlags::All => true,
            NodeFlags::Enter => ENTER.contains(&flag),
            NodeFlags::Which => WHICH.contains(&flag),
            NodeFlags::Share => WHICH.contains(&flag) || SELECT.contains(&flag),
            NodeFlags::None => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn help(command: &str) -> String {
        let mut whole = tidy(crate::cli::Cli::command());
        whole.build();
        whole.find_subcommand_mut(command).unwrap().render_long_help().to_string()
    }

    #[test]
    fn the_flags_of_a_node_are_in_the_help_of_commands_that_start_one() {
        let run = help("run");
        for flag in ["--role", "--share", "--master", "--http", "--on-new-machine", "--data-dir"] {
            assert!(run.contains(flag), "{flag}");
        }
        for command in ["ls", "share", "revoke", "peers", "status"] {
            let help = help(command);
            assert!(help.contains("--data-dir") && help.contains("--json"), "{help}");
            for flag in ["--role", "--master", "--listen", "--http", "--no-mdns"] {
                assert!(!help.contains(flag), "{command} {flag}");
            }
            // What `share` is told to leave out has flags of its own.
            let most = if command == "share" { 60 } else { 40 };
            assert!(help.lines().count() < most, "{help}");
        }
        assert!(help("get").contains("--master") && !help("get").contains("--role"));
        for flag in ["--exclude", "--hidden", "--no-ignore"] {
            assert!(help("share").contains(flag) && !help("ls").contains(flag), "{flag}");
        }
        assert!(help("share").contains("--verbose") && !help("ls").contains("--verbose"));
    }
}
