//! `toolgate schema`: the JSON Schema of the config file, and the pages of the documentation that are
//! generated.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config;

#[derive(clap::Args)]
pub(super) struct Form {
    /// Print the reference of the configuration file in Markdown instead.
    #[arg(long, conflicts_with = "commands")]
    markdown: bool,
    /// Take the examples of the reference from this configuration file.
    #[arg(long, value_name = "FILE", requires = "markdown")]
    example: Option<PathBuf>,
    /// Print the reference of the commands in Markdown.
    #[arg(long, hide = true)]
    commands: bool,
}

pub(super) fn schema(form: &Form) -> ExitCode {
    if form.commands {
        say!("{}", super::reference::markdown().trim_end());
    } else if form.markdown {
        let example = form.example.as_deref().map_or_else(|| Ok(String::new()), std::fs::read_to_string);
        match example {
            Ok(example) => say!("{}", config::reference(&config::schema(), &example).trim_end()),
            Err(error) => {
                eprintln!("error: cannot read the example: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        say!("{:#}", config::schema());
    }
    ExitCode::SUCCESS
}
