//! The documentation: links and anchors, YAML blocks, generated pages, and the size of the README.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::root;

/// Every page for readers: those of the repository's root, of `docs` and of the forge.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().join("docs"), root().join(".github")];
    folders.push(root().to_path_buf());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && folder != root() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() >= 40, "{pages:?}");
    pages.sort();
    pages
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// The lines outside of code blocks, and the blocks with their language.
fn parts(page: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None::<(String, String)>);
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (None, Some((_, text))) => text.push_str(&format!("{line}\n")),
            (None, None) => prose.push_str(&format!("{line}\n")),
        }
    }
    assert!(open.is_none(), "a block has no end");
    (prose, blocks)
}

/// The anchors that a forge gives to the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let (prose, _) = parts(page);
    let mut anchors = BTreeSet::new();
    for title in prose.lines().filter(|line| line.starts_with('#')) {
        let title = title.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
        let anchor: String = kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect();
        let again = (1..).map(|count| format!("{anchor}-{count}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}

/// The targets of the links of a page, without those in code.
fn links(page: &str) -> Vec<String> {
    let (prose, _) = parts(page);
    let prose: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("code");
    let ends = prose.match_indices("](").map(|(at, _)| &prose[at + 2..]);
    ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let (mut broken, mut seen) = (Vec::new(), 0);
    for page in pages() {
        let text = read(&page);
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, a)| (file, Some(a)));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            let there = target.exists()
                && anchor.is_none_or(|anchor| target.is_file() && anchors(&read(&target)).contains(anchor));
            if !there {
                broken.push(format!("{}: {link}", page.display()));
            }
            seen += 1;
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(seen > 100, "{seen} links were found");
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let docs = root().join("docs");
    let listed: BTreeSet<String> = links(&read(&docs.join("SUMMARY.md"))).into_iter().collect();
    for page in pages() {
        let Ok(name) = page.strip_prefix(&docs) else { continue };
        let name = name.to_string_lossy().into_owned();
        assert!(name == "SUMMARY.md" || listed.contains(&name), "{name}");
    }
}

#[test]
fn the_readme_is_short() {
    let bytes = read(&root().join("README.md")).len();
    assert!(bytes <= 9 * 1024, "{bytes} bytes");
}

fn toolgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
    command.current_dir(root());
    command
}

#[test]
fn check_takes_every_yaml_block() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut checked = 0;
    for page in pages() {
        for (_, text) in parts(&read(&page)).1.into_iter().filter(|(language, _)| language == "yaml") {
            // A block that shows other settings has no servers.
            let servers =
                if text.contains("mcpServers:") { "" } else { "mcpServers: {demo: {builtin: demo}}\n" };
            let file = folder.path().join("toolgate.yaml");
            std::fs::write(&file, format!("{servers}{text}")).expect("written");
            let done = toolgate()
                .args(["check", "-c"])
                .arg(&file)
                .env("CI_KEY_SHA256", "e230221e6b75fcef3862aaa04a5854e2d103beaef0fe8c601f8bbc359d54cabc")
                .env("SEARCH_TOKEN", "a-token")
                .env("EXCHANGE_SECRET", "a-secret")
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&done.stderr) + String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success(), "{}:\n{text}\n{said}", page.display());
            checked += 1;
        }
    }
    assert!(checked >= 7, "{checked} blocks were checked");
}

#[test]
fn the_generated_pages_are_what_the_program_prints() {
    for (page, args) in [
        ("docs/configuration/reference.md", &["schema", "--markdown", "--example", "conf/toolgate.yaml"][..]),
        ("docs/commands.md", &["schema", "--commands"]),
    ] {
        let done = toolgate().args(args).output().expect("it runs");
        assert!(done.status.success(), "{args:?}");
        let printed = String::from_utf8(done.stdout).expect("text");
        assert!(printed == read(&root().join(page)), "{page} is out of date: run `make docs`");
    }
}

/// Each key has a type, a default, an example and a description; a size or a time has a range.
#[test]
fn the_reference_says_everything_of_each_key() {
    let page = read(&root().join("docs/configuration/reference.md"));
    let (mut keys, mut lacking) = (0, Vec::new());
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let [_, kind, default, range, example, meaning, ..] = cells[..] else { panic!("{row}") };
        let measured = ["[size]", "[duration]", "integer"].iter().any(|name| kind.starts_with(name));
        let container = kind.contains("[mapping]") || kind.starts_with("map of");
        if kind.is_empty()
            || default.is_empty()
            || meaning.is_empty()
            || measured && range.is_empty()
            || !container && example.is_empty()
        {
            lacking.push(row);
        }
        keys += 1;
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
    assert!(keys > 150, "{keys} keys");
}
