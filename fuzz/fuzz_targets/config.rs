//! Any text as a config file: it becomes a config or faults, each of which points at a place inside of the text and can
//! be shown; nothing makes it panic, and nothing short makes it work for long.
#![no_main]

use fuzz::cut;
use libfuzzer_sys::fuzz_target;
use toolgate::config;

/// What stands in the environment, and in no fault.
const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";

fuzz_target!(|data: &[u8]| {
    let (text, other) = cut(data, 0);
    let (Ok(text), Ok(other)) = (std::str::from_utf8(text), std::str::from_utf8(other)) else { return };
    let environment = |name: &str| match name {
        "SECRET" => Some(SECRET.to_owned()),
        "PORT" => Some("8080".to_owned()),
        "EMPTY" => Some(String::new()),
        "TEXT" => Some(other.to_owned()),
        _ => None,
    };
    match config::parse("conf.yaml", text, &environment) {
        Ok(config) => {
            assert!(!format!("{config:?}").contains(SECRET) || text.contains("SECRET"));
            let again = config::parse("conf.yaml", text, &environment).expect("it was good a moment ago");
            assert_eq!(config, again);
            assert!(config.changes(&again).is_empty());
        }
        Err(faults) => {
            let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
            let bare = bare.replace("\r\n", "\n");
            let lines: Vec<&str> = bare.split(['\n', '\r']).collect();
            assert!((1..=64).contains(&faults.list().len()));
            for fault in faults.list() {
                if fault.line == 0 {
                    continue;
                }
                let line = lines.get(fault.line - 1).expect("a line of the file");
                // One past the end is where something is missing.
                let width = line.chars().count();
                assert!((1..=width + 1).contains(&fault.column), "column {} of {line:?}", fault.column);
                assert!(fault.len >= 1 && fault.column + fault.len <= width.max(fault.column) + 1);
            }
            let shown = format!("{faults}\n{}", faults.brief());
            assert!(!shown.contains(SECRET), "a value of the environment was told");
        }
    }
});
