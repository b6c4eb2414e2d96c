//! Invalid config files and the exact messages about them; and the example files, which are valid.
//!
//! `BLESS=1 cargo test config_faults` writes the `.golden` files again: read the difference before you keep
//! it.

use std::path::{Path, PathBuf};

use toolgate::config;

/// The environment of the files. No golden file may hold the secret values.
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
fn every_invalid_file_gives_the_errors_of_its_golden() {
    let blesses = crate::harness::blesses();
    let files = files("tests/config_faults");
    assert!(files.len() >= 32, "only {} files", files.len());
    let mut differing = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let errors = match config::parse(base(&path), &text, &environment) {
            Ok(_) => panic!("{} is valid", base(&path)),
            Err(errors) => errors,
        };
        let output = format!("{errors}\n");
        let golden = path.with_extension("golden");
        if blesses {
            std::fs::write(&golden, &output).expect("a writable folder");
        }
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        if output != wanted {
            differing.push(format!("--- {}\n{wanted}\n+++ now\n{output}", golden.display()));
        }
    }
    if blesses {
        crate::harness::blessed("tests/config_faults/*.golden");
    }
    assert!(differing.is_empty(), "{}\nBLESS=1 rewrites the golden files", differing.join("\n"));
}

#[test]
fn no_error_shows_a_secret() {
    for path in files("tests/config_faults") {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let errors = config::parse(base(&path), &text, &environment).expect_err("all of them are invalid");
        for shown in [errors.to_string(), errors.one_line().to_string(), format!("{errors:?}")] {
            assert!(!shown.contains("hunter2"), "{}: {shown}", base(&path));
        }
    }
}

#[test]
fn every_error_points_into_its_file() {
    for path in files("tests/config_faults") {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let lines: Vec<_> = text.lines().map(|line| line.trim_end_matches('\r').chars().count()).collect();
        let errors = config::parse(base(&path), &text, &environment).expect_err("all of them are invalid");
        assert!(!errors.list().is_empty());
        for error in errors.list().iter().filter(|error| error.line > 0) {
            let width = *lines.get(error.line - 1).expect("the line is there");
            assert!(error.column >= 1 && error.len >= 1, "{error:?}");
            assert!(error.column + error.len <= width + 2, "{}: {error:?}", base(&path));
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
        if let Err(errors) = config::parse(base(&path), &text, &nothing) {
            panic!("{errors}");
        }
        let loaded = config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.path.as_deref(), Some(path.as_path()));
    }
}
