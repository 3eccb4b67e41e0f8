//! Commands and their dispatch.

use std::process::ExitCode;

use super::flags::FlagError;
use super::{Code, Console, FAILED, FlagSet, Flags, OK, UNKNOWN_COMMAND};

/// One command of a program.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// The words that name it, such as `entry create`.
    pub name: &'static str,
    /// What it does, for the list of commands.
    pub synopsis: &'static str,
    /// The flags it takes.
    pub flags: fn() -> FlagSet,
    /// Does it.
    pub run: fn(&Flags, &mut Console) -> Code,
}

/// A program made of commands.
#[derive(Clone, Copy, Debug)]
pub struct App {
    /// The program's name.
    pub name: &'static str,
    /// What `-version` prints.
    pub version: &'static str,
    /// The commands, in any order.
    pub commands: &'static [Command],
}

impl App {
    /// Runs the command that the process was started with.
    pub fn main(&self) -> ExitCode {
        let words: Vec<String> = std::env::args_os()
            .skip(1)
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        ExitCode::from(self.run(&words, &mut Console::standard()))
    }

    /// Runs the command that the words after the program's name ask for.
    pub fn run(&self, words: &[String], console: &mut Console) -> Code {
        let found = Words::read(words);
        if found.version {
            console.errln(self.version);
            return OK;
        }
        if found.help && found.command.is_none() {
            console.errln(self.help());
            return OK;
        }
        let Some(command) = found.command else {
            console.errln(self.help());
            return UNKNOWN_COMMAND;
        };
        let (path, rest) = self.resolve(words.get(command..).unwrap_or_default());
        let Some(command) = self.commands.iter().find(|known| known.name == path) else {
            return self.run_parent(&path, found.help, console);
        };
        if found.help {
            console.err((command.flags)().usage());
            return OK;
        }
        if found.flags_before {
            console.errln(
                "Invalid flags before the subcommand. If these flags are for\nthe subcommand, please put them after the subcommand.\n",
            );
            console.err((command.flags)().usage());
            return FAILED;
        }
        let flags = (command.flags)();
        match flags.parse(rest) {
            Ok(flags) => (command.run)(&flags, console),
            Err(FlagError::Help) => {
                console.err(flags.usage());
                OK
            }
            Err(FlagError::Bad(message)) => {
                console.errln(message);
                console.err(flags.usage());
                FAILED
            }
        }
    }

    /// Answers a word that only groups commands, or none at all.
    fn run_parent(&self, path: &str, help: bool, console: &mut Console) -> Code {
        if path.is_empty() {
            console.errln(self.help());
            return UNKNOWN_COMMAND;
        }
        for child in self.children(path) {
            console.err((child.flags)().usage());
        }
        console.errln("This command is accessed by using one of the subcommands below.\n");
        console.errln("Subcommands:");
        for child in self.children(path) {
            let name = child
                .name
                .get(path.len()..)
                .unwrap_or_default()
                .trim_start();
            console.errln(format_args!("    {name:<16}{}", child.synopsis));
        }
        if help { OK } else { FAILED }
    }

    fn children<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Command> {
        self.commands.iter().filter(move |command| {
            command
                .name
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(' '))
        })
    }

    /// Takes the longest command, or group of commands, that the words begin with; returns it and the words after it.
    fn resolve<'a>(&self, words: &'a [String]) -> (String, &'a [String]) {
        let mut path = String::new();
        let mut taken = 0;
        for word in words {
            let longer = if path.is_empty() {
                word.clone()
            } else {
                format!("{path} {word}")
            };
            let known = self.commands.iter().any(|command| command.name == longer)
                || self.children(&longer).next().is_some();
            if !known || word.contains(' ') {
                break;
            }
            path = longer;
            taken += 1;
        }
        (path, words.get(taken..).unwrap_or_default())
    }

    fn help(&self) -> String {
        let mut names: Vec<&str> = self
            .commands
            .iter()
            .filter_map(|command| command.name.split(' ').next())
            .collect();
        names.sort_unstable();
        names.dedup();
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut out = format!(
            "Usage: {} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n",
            self.name
        );
        for name in names {
            let synopsis = self
                .commands
                .iter()
                .find(|command| command.name == name)
                .map_or("", |command| command.synopsis);
            let line = format!("    {name:<width$}    {synopsis}");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// What can be said about the words before any command is known.
#[derive(Debug, Default)]
struct Words {
    help: bool,
    version: bool,
    flags_before: bool,
    /// Where the command begins.
    command: Option<usize>,
}

impl Words {
    fn read(words: &[String]) -> Self {
        let mut found = Self::default();
        for (index, word) in words.iter().enumerate() {
            match word.as_str() {
                "--" => break,
                "-h" | "-help" | "--help" => found.help = true,
                "-v" | "-version" | "--version" if found.command.is_none() => found.version = true,
                word if found.command.is_some() || word.is_empty() => {}
                word if word.starts_with('-') => found.flags_before = true,
                _ => found.command = Some(index),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: App = App {
        name: "finial-server",
        version: "1.2.3",
        commands: &[
            Command {
                name: "entry count",
                synopsis: "Counts entries",
                flags: || FlagSet::new("entry count").bool("x", "An x").output(),
                run: |flags, console| {
                    console.outln(format_args!("counted {}", flags.bool("x")));
                    7
                },
            },
            Command {
                name: "run",
                synopsis: "Runs the server",
                flags: || FlagSet::new("run"),
                run: |_, _| OK,
            },
        ],
    };

    fn run(words: &[&str]) -> (Code, String, String) {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let mut console = Console::captured();
        let code = APP.run(&words, &mut console);
        let (out, err) = console.into_captured();
        (code, out, err)
    }

    #[test]
    fn exit_codes_are_those_scripts_rely_on() {
        for (words, code) in [
            (&[][..], 127),
            (&["nope"], 127),
            (&["help"], 127),
            (&["-output", "json", "entry", "count"], 127),
            (&["entry"], 1),
            (&["entry", "nope"], 1),
            (&["-x", "entry", "count"], 1),
            (&["entry", "count", "-nope"], 1),
            (&["entry", "count", "-h"], 0),
            (&["--help"], 0),
            (&["-v"], 0),
            (&["entry", "count", "-x"], 7),
            (&["run"], 0),
        ] {
            assert_eq!(run(words).0, code, "{words:?}");
        }
    }

    #[test]
    fn the_version_goes_to_standard_error() {
        assert_eq!(run(&["--version"]), (0, String::new(), "1.2.3\n".into()));
    }

    #[test]
    fn a_command_gets_its_flags() {
        assert_eq!(run(&["entry", "count", "--x"]).1, "counted true\n");
    }

    #[test]
    fn general_help_lists_the_first_words() {
        assert_eq!(
            run(&[]).2,
            "Usage: finial-server [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n    entry\n    run      Runs the server\n\n"
        );
    }
}
