//! `tollgate completions` and `tollgate man`, and the page `docs/cli.md`.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Cli;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Completions {
    /// Shell.
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct Man {
    /// Command, such as `keys create`.
    command: Vec<String>,
}

impl Completions {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tollgate", &mut script);
        print(&script)
    }
}

impl Man {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut program = Cli::command();
        program.build();
        let mut command = &program;
        for name in &self.command {
            command = command.find_subcommand(name).ok_or_else(|| {
                Failure::usage(format!("there is no command {}", self.command.join(" ")))
            })?;
        }
        let name = command
            .get_bin_name()
            .unwrap_or("tollgate")
            .replace(' ', "-");
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone())
            .title(name)
            .render(&mut page)
            .map_err(|error| Failure::output(&error))?;
        print(&page)
    }
}

fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(text).and_then(|()| stdout.flush());
    printed.map_err(|error| Failure::output(&error))
}

/// Returns the text of `docs/cli.md`.
#[cfg(test)]
fn page() -> String {
    let mut program = Cli::command();
    program.build();
    let mut page = "# The command line\n\n\
        Generated from the program's own help (`tollgate help COMMAND`). `tollgate completions SHELL` prints completions,\n\
        `tollgate man` and `tollgate man keys create` manual pages.\n\n\
        ```sh\n\
        tollgate login https://abc123.execute-api.eu-central-1.amazonaws.com/v1  # asks for an admin key\n\
        tollgate customers create acme --plan pro\n\
        KEY=$(tollgate keys create acme)\n\
        tollgate export november.csv --month 2026-11\n\
        ```\n\n\
        Tables are for people, and may change; `--json` prints what [the API](../infra/openapi.json) returns. Data goes to\n\
        standard output, everything else to standard error. Times are in UTC. Requests that can be repeated are\n\
        repeated when the API is unavailable for a moment; creations carry an `Idempotency-Key`.\n"
        .to_owned();
    section(&mut page, &mut program);
    page
}

/// Adds the help of a command and of its subcommands.
#[cfg(test)]
fn section(page: &mut String, command: &mut clap::Command) {
    let name = command.get_bin_name().unwrap_or("tollgate").to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!(
        "\n## {name}\n\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    ));
    for command in command.get_subcommands_mut() {
        if !command.is_hide_set() && command.get_name() != "help" {
            section(page, command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_command_line_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let page = page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let update = "UPDATE_DOCS=1 cargo test -p tollgate-cli --lib";
        assert!(
            found == page,
            "docs/cli.md is stale; to update it: {update}"
        );
    }

    #[test]
    fn the_declaration_of_the_arguments_is_consistent() {
        Cli::command().debug_assert();
    }
}
