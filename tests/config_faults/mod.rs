//! Broken config files and what is said of them, word by word; and the example files, which are not broken.
//!
//! `BLESS=1 cargo test config_faults` writes the `.golden` files anew: read the difference before it is kept.

use std::path::{Path, PathBuf};

use toolgate::config;

/// What the files find in their environment. No golden file may hold the secret ones.
fn environment(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some("hunter2".into()),
        "TOKEN_WITH_A_BREAK" => Some("hunter2\n".into()),
        _ => None,
    }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).expect("the folder is a part of the project");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

fn base(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("our file names are plain")
}

#[test]
fn every_broken_file_is_told_as_its_golden_says() {
    let blesses = crate::harness::blesses();
    let files = files("tests/config_faults");
    assert!(files.len() >= 32, "only {} files", files.len());
    let mut differing = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let faults = match config::parse(base(&path), &text, &environment) {
            Ok(_) => panic!("{} is not broken", base(&path)),
            Err(faults) => faults,
        };
        let told = format!("{faults}\n");
        let golden = path.with_extension("golden");
        if blesses {
            std::fs::write(&golden, &told).expect("a writable folder");
        }
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        if told != wanted {
            differing.push(format!("--- {}\n{wanted}\n+++ now\n{told}", golden.display()));
        }
    }
    if blesses {
        crate::harness::blessed("tests/config_faults/*.golden");
    }
    assert!(differing.is_empty(), "{}\nBLESS=1 writes the golden files anew", differing.join("\n"));
}

#[test]
fn no_fault_shows_a_secret() {
    for path in files("tests/config_faults") {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let faults = config::parse(base(&path), &text, &environment).expect_err("all of them are broken");
        for shown in [faults.to_string(), faults.one_line().to_string(), format!("{faults:?}")] {
            assert!(!shown.contains("hunter2"), "{}: {shown}", base(&path));
        }
    }
}

#[test]
fn every_fault_points_into_its_file() {
    for path in files("tests/config_faults") {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let lines: Vec<_> = text.lines().map(|line| line.trim_end_matches('\r').chars().count()).collect();
        let faults = config::parse(base(&path), &text, &environment).expect_err("all of them are broken");
        assert!(!faults.list().is_empty());
        for fault in faults.list().iter().filter(|fault| fault.line > 0) {
            let width = *lines.get(fault.line - 1).expect("the line is there");
            assert!(fault.column >= 1 && fault.len >= 1, "{fault:?}");
            assert!(fault.column + fault.len <= width + 2, "{}: {fault:?}", base(&path));
        }
    }
}

#[test]
fn every_example_is_a_good_config() {
    let files = files("conf");
    assert!(files.len() >= 3, "only {} files", files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let nothing = |_: &str| None;
        if let Err(faults) = config::parse(base(&path), &text, &nothing) {
            panic!("{faults}");
        }
        let loaded = config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.path.as_deref(), Some(path.as_path()));
    }
}
