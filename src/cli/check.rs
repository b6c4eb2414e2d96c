//! `toolgate check`: what a configuration contains, how it was read, and what will not work here.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output;
use crate::config::{self, Config, ServerTransport};
use crate::listener::tls;
use crate::upstream::http::tls::UpstreamTls;

/// Prints a summary, the keys that were read under another name, and probable mistakes.
pub fn check(config: Config, file: &Path) -> ExitCode {
    say!("{}", output::summary(&config, file).trim_end());
    for note in config.notes.readings() {
        say!("note: {note}");
    }
    for warning in warnings(&config) {
        say!("warning: {warning}");
    }
    if let Err(why) = output::would_start(config) {
        say!("warning: it would not start here: {why}");
    }
    ExitCode::SUCCESS
}

/// Prints the file in Toolgate's own format; the conversions go to standard error.
pub fn print(file: &Path) -> ExitCode {
    let (config, yaml) = match config::load_and_print(file) {
        Ok(printed) => printed,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(2);
        }
    };
    for note in config.notes.readings() {
        eprintln!("note: {note}");
    }
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    say!("{}", yaml.trim_end());
    ExitCode::SUCCESS
}

fn warnings(config: &Config) -> Vec<String> {
    let mut doubts = config.warnings();
    doubts.extend(config.unmatched_patterns());
    for (name, server) in &config.servers {
        if let ServerTransport::Stdio { command, env, env_pass, cwd, .. } = &server.transport {
            let path = env.get("PATH").map_or_else(|| env::var_os("PATH"), |path| Some(path.expose().into()));
            doubts
                .extend(program(command, cwd.as_deref(), path).map(|why| format!("mcpServers.{name}.{why}")));
            let unset = env_pass.iter().filter(|variable| env::var_os(variable).is_none());
            doubts.extend(unset.map(|variable| {
                format!("mcpServers.{name}.env_pass: the variable `{variable}` is not set here, so it is not passed on")
            }));
        }
    }
    doubts.extend(tls_warnings(config));
    doubts
}

/// Why a program would not start here, as far as files show.
fn program(command: &str, cwd: Option<&Path>, path: Option<OsString>) -> Option<String> {
    if let Some(cwd) = cwd.filter(|cwd| !cwd.is_dir()) {
        return Some(format!(
            "cwd: there is no folder `{}`, so the program would not start here",
            cwd.display()
        ));
    }
    if command.contains('/') {
        // The program is searched from the folder that it starts in.
        let file = cwd.map_or_else(|| PathBuf::from(command), |cwd| cwd.join(command));
        return match file.metadata() {
            Err(_) => {
                Some(format!("command: there is no file `{command}`, so the server would not start here"))
            }
            Ok(_) if !is_program(&file) => {
                Some(format!("command: `{command}` is no program that may be run"))
            }
            Ok(_) => None,
        };
    }
    let found =
        path.is_some_and(|path| env::split_paths(&path).any(|folder| is_program(&folder.join(command))));
    if found {
        return None;
    }
    let words = match command.split_once(' ') {
        Some((program, _)) => format!("; if `{program}` is the program, the rest belongs into `args`"),
        None => String::new(),
    };
    Some(format!(
        "command: there is no program `{command}` on PATH, so the server would not start here{words}"
    ))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// What is wrong with the files of the `tls` blocks. This is no error of the configuration: the files may
/// exist only where it runs.
fn tls_warnings(config: &Config) -> Vec<String> {
    let mut doubts = config.listen.tls.as_ref().map(tls::warnings).unwrap_or_default();
    for (name, server) in &config.servers {
        if let Err(error) = UpstreamTls::read(server) {
            doubts.push(format!("mcpServers.{name}.{error}"));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_would_not_start_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = folder.path();
        for (name, mode) in [("runs", 0o755), ("plain", 0o644)] {
            let file = here.join(name);
            std::fs::write(&file, "").expect("a file");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode");
        }
        let path = Some(OsString::from(format!("/nowhere:{}", here.display())));
        let whole = here.join("runs").display().to_string();
        for (command, cwd, told) in [
            ("runs", None, None),
            (whole.as_str(), None, None),
            ("./runs", Some(here), None),
            ("plain", None, Some("no program `plain` on PATH")),
            ("gone", Some(here), Some("no program `gone` on PATH")),
            ("runs -y", None, Some("the rest belongs into `args`")),
            ("./plain", Some(here), Some("no program that may be run")),
            ("./gone", Some(here), Some("no file `./gone`")),
            ("runs", Some(Path::new("/no/such/folder")), Some("no folder `/no/such/folder`")),
        ] {
            let why = program(command, cwd, path.clone());
            match told {
                None => assert_eq!(why, None, "{command}"),
                Some(told) => {
                    assert!(why.as_ref().is_some_and(|why| why.contains(told)), "{command}: {why:?}")
                }
            }
        }
        assert!(program("runs", None, None).is_some());
    }
}
