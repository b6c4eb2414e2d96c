//! Any text as a config file: it becomes a config or errors, each with a position in the text and a
//! printable message. The format of the text does not change its meaning, and neither does printing it in
//! Toolgate's own format. No output contains a secret, and nothing panics or takes long. A text that begins
//! with `+` is TOML.
#![no_main]

use fuzz::cut;
use libfuzzer_sys::fuzz_target;
use toolgate::config::{self, Config, ConfigErrors, Environment};
use toolgate::runtime::filter_chain;

/// A value of the environment that must be in no output.
const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";
const OTHER: &str = "hunter3-hunter3-hunter3-hunter3-hunter3";

fuzz_target!(|data: &[u8]| {
    let (text, other) = cut(data, 0);
    let (Ok(text), Ok(other)) = (std::str::from_utf8(text), std::str::from_utf8(other)) else { return };
    let environment = |name: &str, secret: &str| match name {
        "SECRET" => Some(secret.to_owned()),
        "PORT" => Some("8080".to_owned()),
        "EMPTY" => Some(String::new()),
        "TEXT" => Some(other.to_owned()),
        _ => None,
    };
    if let Some(toml) = text.strip_prefix('+') {
        return in_toml(toml, &|name| environment(name, SECRET));
    }
    let read = |text: &str, secret: &str| config::parse("conf.yaml", text, &|name| environment(name, secret));
    match read(text, SECRET) {
        Ok(config) => {
            accepted(text, &config, read(text, OTHER));
            in_our_words("conf.yaml", text, &config, &|name| environment(name, SECRET));
            written_otherwise(text, &config, &|text| read(text, SECRET));
        }
        Err(errors) => {
            pointed(text, &errors);
            moved(text, &errors, &|text| read(text, SECRET));
        }
    }
});

/// The file in Toolgate's own format means the same, and is printed the same again.
fn in_our_words(name: &str, text: &str, config: &Config, environment: &Environment<'_>) {
    let (again, yaml) =
        config::canonical(name, text, environment).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(Config { hash: config.hash.clone(), ..again }, *config);
    let (_, twice) =
        config::canonical("conf.yaml", &yaml, environment).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(twice, yaml);
}

fn in_toml(text: &str, environment: &Environment<'_>) {
    match config::parse("conf.toml", text, environment) {
        Ok(config) => in_our_words("conf.toml", text, &config, environment),
        Err(errors) => pointed(text, &errors),
    }
}

/// An accepted config needs no second check, and its output contains no secret.
fn accepted(text: &str, config: &Config, other: Result<Config, ConfigErrors>) {
    let mut told: Vec<String> = config.warnings();
    if let Ok(other) = other {
        // The hash covers the text, whatever the environment is.
        assert_eq!(config.hash, other.hash);
        let changes = config.changes(&other);
        assert_eq!(changes.is_empty(), *config == other, "what differs is not told");
        told.extend(changes.iter().map(ToString::to_string));
    }
    assert!(config.changes(config).is_empty());
    // Names are printed; a name from the environment is so on purpose.
    let names = config.servers.keys().chain(config.toolsets.keys());
    if !text.contains("jwt") && !names.into_iter().any(|name| name.as_str().contains("hunter")) {
        // Keys are printed too, and may contain a part of it by chance.
        let told_of = |secret: &str| told.concat().contains(&secret[..15]);
        assert!(!told_of(SECRET) && !told_of(OTHER), "a value of the environment was told: {told:?}");
    }
    filter_chain::redactor(&config.guard).expect("patterns that were checked can be used");
    for server in config.servers.values() {
        let _ = server.transport.header_map();
    }
}

/// Line ends, a byte order mark, a comment, and (if the text is JSON) spaces and line breaks have no
/// meaning.
fn written_otherwise(text: &str, config: &Config, read: &dyn Fn(&str) -> Result<Config, ConfigErrors>) {
    let same = |other: String| match read(&other) {
        // The hash covers the text, which differs here.
        Ok(again) => assert_eq!(Config { hash: config.hash.clone(), ..again }, *config, "{other}"),
        Err(errors) => panic!("written otherwise it is refused: {other}\n{errors}"),
    };
    let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
    assert_eq!(read(text).as_ref(), Ok(config));
    same(format!("\u{feff}{bare}"));
    same(format!("# A comment.\n{bare}"));
    if !bare.contains('\r') {
        same(bare.replace('\n', "\r\n"));
    }
    // JSON is YAML. As another writer prints it, it means the same; numbers may lose digits, so texts with
    // numbers are excluded.
    if let Some(Ok(json)) = bare.trim_start().starts_with('{').then(|| serde_json::from_str(bare)) {
        let json: serde_json::Value = json;
        let digits = bare.contains(|c: char| c.is_ascii_digit());
        if !digits && fuzz::json::value(bare.as_bytes()).is_some() {
            same(format!("{json}"));
            same(format!("{json:#}"));
        }
    }
}

/// Each error has a position in the file, and contains no secret.
fn pointed(text: &str, errors: &ConfigErrors) {
    let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
    let bare = bare.replace("\r\n", "\n");
    let lines: Vec<&str> = bare.split(['\n', '\r']).collect();
    assert!((1..=64).contains(&errors.list().len()));
    for error in errors.list() {
        assert!(!error.message.is_empty());
        if error.line == 0 {
            continue;
        }
        let line = lines.get(error.line - 1).expect("a line of the file");
        // One past the end is where something is missing.
        let width = line.chars().count();
        assert!((1..=width + 1).contains(&error.column), "column {} of {line:?}", error.column);
        assert!(error.len >= 1 && error.column + error.len <= width.max(error.column) + 1);
    }
    let shown = format!("{errors}\n{}", errors.one_line());
    assert!(!shown.contains(SECRET), "a value of the environment was told");
}

/// One more line before the text moves its errors by a line, and changes nothing else.
fn moved(text: &str, errors: &ConfigErrors, read: &dyn Fn(&str) -> Result<Config, ConfigErrors>) {
    let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Err(moved) = read(&format!("# A comment.\n{bare}")) else {
        panic!("a comment makes it good: {errors}");
    };
    let places = |errors: &ConfigErrors, by: usize| -> Vec<_> {
        let place = |line: usize| if line == 0 { 0 } else { line + by };
        errors.list().iter().map(|f| (place(f.line), f.column, f.len, f.message.clone())).collect()
    };
    let words = |text: &str| text.contains("line ");
    // A message may name another line.
    if !errors.list().iter().any(|error| words(&error.message)) {
        assert_eq!(places(errors, 1), places(&moved, 0));
    }
}
