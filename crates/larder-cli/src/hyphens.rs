//! Keys that begin with a hyphen.

use std::ffi::OsString;

use clap::Command;

/// The options of one letter.
const SHORT: [&str; 2] = ["-h", "-V"];

/// The arguments in an order in which one with a single hyphen in front is no option, but a key or another name: they
/// come after `--`, and so does all that follows them but options. Those with two hyphens stay options, as a typo in
/// one must not become a key: clap has a switch for an argument, and that one takes the options behind it, too.
pub(crate) fn last(command: &Command, mut given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    // The name of the program may be anything.
    let mut front: Vec<_> = given.next().into_iter().collect();
    let mut back = Vec::new();
    while let Some(argument) = given.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            back.extend(given);
            break;
        }
        if let Some(option) = text.strip_prefix("--") {
            let has_value = takes_value(command, option);
            front.push(argument);
            front.extend(has_value.then(|| given.next()).flatten());
            continue;
        }
        let is_name = text.starts_with('-') && text != "-" || !back.is_empty();
        if is_name && !SHORT.contains(&&*text) {
            back.push(argument);
        } else {
            front.push(argument);
        }
    }
    if !back.is_empty() {
        front.push("--".into());
        front.append(&mut back);
    }
    front
}

/// Whether the argument after this option is its value.
fn takes_value(command: &Command, option: &str) -> bool {
    let mut options = command.get_arguments();
    options.any(|known| known.get_long() == Some(option) && known.get_action().takes_values())
        || command
            .get_subcommands()
            .any(|command| takes_value(command, option))
}
