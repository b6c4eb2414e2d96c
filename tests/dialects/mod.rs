//! Files as other programs write them, and what becomes of each: its faults, or how it was read and what it is in our words.
//!
//! `BLESS=1 cargo test dialects` writes the `.golden` files anew: read the difference before it is kept.

use std::path::{Path, PathBuf};

use toolgate::config::{self, Config};

/// What the files find in their environment. No golden file may hold the secret.
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

/// What `check` and `check --print` say of a file.
fn told(name: &str, text: &str) -> String {
    let mut told = String::new();
    match config::parse(name, text, &environment) {
        Err(faults) => told.push_str(&format!("{faults}\n")),
        Ok(config) => {
            config.notes.readings().for_each(|note| told.push_str(&format!("note: {note}\n")));
            config.notes.warnings().for_each(|note| told.push_str(&format!("warning: {note}\n")));
        }
    }
    if let Ok((_, yaml)) = config::canonical(name, text, &environment) {
        told.push_str(&format!("---\n{yaml}"));
    }
    told
}

#[test]
fn every_file_of_another_program_is_read_as_its_golden_says() {
    let blesses = crate::harness::blesses();
    let files = files();
    assert!(files.len() >= 49, "only {} files", files.len());
    let mut differing = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let told = told(base(&path), &text);
        // What the environment holds is nowhere; what the file itself holds is only in the file that is printed.
        let words = told.split("---\n").next().unwrap_or_default();
        assert!(!told.contains("hunter2") && !words.contains("hunter3"), "{}: {told}", base(&path));
        let golden = path.with_file_name(format!("{}.golden", base(&path)));
        if blesses {
            std::fs::write(&golden, &told).expect("a writable folder");
        }
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        if told != wanted {
            differing.push(format!("--- {}\n{wanted}\n+++ now\n{told}", golden.display()));
        }
    }
    if blesses {
        crate::harness::blessed("tests/dialects/*.golden");
    }
    assert!(differing.is_empty(), "{}\nBLESS=1 writes the golden files anew", differing.join("\n"));
}

/// Files in our words come out as they went in: nothing of them is translated, warned of or said otherwise.
#[test]
fn a_file_in_our_words_is_left_as_it_is() {
    for folder in ["conf", "tests/fixture"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            if path.extension().is_none_or(|end| end != "yaml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let Ok(config) = config::parse(base(&path), &text, &|_| None) else { continue };
            let said = |config: &Config| {
                config.notes.readings().chain(config.notes.warnings()).cloned().collect::<Vec<_>>()
            };
            let mine = |text: &str| text.contains("switched off") || text.contains("nobody is asked here");
            let notes: Vec<_> = said(&config).into_iter().filter(|note| !mine(&note.text)).collect();
            assert!(notes.is_empty(), "{}: {notes:?}", base(&path));
            let (again, yaml) = config::canonical(base(&path), &text, &|_| None).expect("it was good");
            assert_eq!(Config { hash: config.hash.clone(), ..again }, config);
            let (_, twice) = config::canonical("c.yaml", &yaml, &|_| None).expect("it was good");
            assert_eq!(twice, yaml);
        }
    }
}
