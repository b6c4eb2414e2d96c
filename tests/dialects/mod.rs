//! Files in the format of other programs, and the result for each: its errors, or how it was read and its
//! form in Toolgate's own format.
//!
//! `BLESS=1 cargo test dialects` writes the `.golden` files again: read the difference before you keep it.

use std::path::{Path, PathBuf};

use toolgate::config::{self, Config};

/// The environment of the files. No golden file may hold the secret value.
fn environment(name: &str) -> Option<String> {
    match name {
        "DOCS_TOKEN" | "COPILOT_MCP_KEY" | "INPUT_API_KEY" => Some("hunter2".into()),
        "TZ" => Some("UTC".into()),
        "workspaceFolder" => Some("/home/somebody/project".into()),
        "HOME" => Some("/home/somebody".into()),
        _ => None,
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialects");
    let entries = std::fs::read_dir(&folder).expect("the folder is a part of the project");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let is_case = |path: &PathBuf| {
        path.extension().is_some_and(|end| ["json", "yaml", "toml"].iter().any(|known| end == *known))
    };
    let mut files: Vec<_> = paths.filter(is_case).collect();
    files.sort();
    files
}

fn base(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("our file names are plain")
}

/// The output of `check` and `check --print` for a file.
fn output(name: &str, text: &str) -> String {
    let mut output = String::new();
    match config::parse(name, text, &environment) {
        Err(errors) => output.push_str(&format!("{errors}\n")),
        Ok(config) => {
            config.notes.readings().for_each(|note| output.push_str(&format!("note: {note}\n")));
            config.notes.warnings().for_each(|note| output.push_str(&format!("warning: {note}\n")));
        }
    }
    if let Ok((_, yaml)) = config::canonical(name, text, &environment) {
        output.push_str(&format!("---\n{yaml}"));
    }
    output
}

#[test]
fn every_file_of_another_program_gives_its_golden() {
    let blesses = crate::harness::blesses();
    let files = files();
    assert!(files.len() >= 49, "only {} files", files.len());
    let mut differing = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let output = output(base(&path), &text);
        // Values of the environment are nowhere; values of the file itself are only in the printed file.
        let words = output.split("---\n").next().unwrap_or_default();
        assert!(!output.contains("hunter2") && !words.contains("hunter3"), "{}: {output}", base(&path));
        let golden = path.with_file_name(format!("{}.golden", base(&path)));
        if blesses {
            std::fs::write(&golden, &output).expect("a writable folder");
        }
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        if output != wanted {
            differing.push(format!("--- {}\n{wanted}\n+++ now\n{output}", golden.display()));
        }
    }
    if blesses {
        crate::harness::blessed("tests/dialects/*.golden");
    }
    assert!(differing.is_empty(), "{}\nBLESS=1 rewrites the golden files", differing.join("\n"));
}

/// Files in Toolgate's own format are printed unchanged: nothing of them is translated, warned about or
/// written in another way.
#[test]
fn a_file_in_our_format_stays_unchanged() {
    for folder in ["conf", "tests/fixture"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            if path.extension().is_none_or(|end| end != "yaml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let Ok(config) = config::parse(base(&path), &text, &|_| None) else { continue };
            let notes_of = |config: &Config| {
                config.notes.readings().chain(config.notes.warnings()).cloned().collect::<Vec<_>>()
            };
            let mine = |text: &str| text.contains("is disabled") || text.contains("never asks the user");
            let notes: Vec<_> = notes_of(&config).into_iter().filter(|note| !mine(&note.text)).collect();
            assert!(notes.is_empty(), "{}: {notes:?}", base(&path));
            let (again, yaml) = config::canonical(base(&path), &text, &|_| None).expect("it is valid");
            assert_eq!(Config { hash: config.hash.clone(), ..again }, config);
            let (_, twice) = config::canonical("c.yaml", &yaml, &|_| None).expect("it is valid");
            assert_eq!(twice, yaml);
        }
    }
}
