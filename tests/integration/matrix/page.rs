//! The page docs/protocol/compatibility.md: its part between two marks is what the test has seen.

use super::features::FEATURES;
use super::impossible::{REASONS, reason};
use super::servers::{UPSTREAMS, Upstream};
use super::{CLIENTS, Table};
use crate::harness::{blessed, blesses, root};

const PAGE: &str = "docs/protocol/compatibility.md";
const BEGIN: &str = "<!-- begin: tests/integration/matrix writes this part -->\n";
const END: &str = "<!-- end -->\n";

fn title(client: &str) -> &'static str {
    match client {
        "legacy" => "Client over Streamable HTTP, 2025-11-25",
        "sse" => "Client over HTTP+SSE, 2024-11-05",
        _ => "Client over Streamable HTTP, 2026-07-28",
    }
}

fn rendered(table: &Table) -> String {
    let mut text = String::new();
    for client in CLIENTS {
        text += &format!("\n## {}\n\n| |", title(client));
        text += &UPSTREAMS.map(|up| format!(" {} |", up.title())).concat();
        text += &format!("\n|---{}|\n", "|---".repeat(UPSTREAMS.len()));
        for feature in FEATURES {
            text += &format!("| {} |", feature.title());
            for up in UPSTREAMS {
                let seen = &table[&(client, up.name(), feature)];
                text += &match (seen, reason(client, up.name(), feature)) {
                    (Ok(()), _) if up == Upstream::LegacyStdio && feature.needs_own_process() => {
                        " yes, with `isolation: session` |".to_owned()
                    }
                    (Ok(()), _) => " yes |".to_owned(),
                    (Err(_), reason) => format!(" no: {} |", reason.map_or("", |reason| reason.word)),
                };
            }
            text += "\n";
        }
    }
    text += "\n## Reasons\n\n| Word | Reason |\n|---|---|\n";
    for reason in REASONS.iter().filter(|reason| !reason.text.is_empty()) {
        text += &format!("| {} | {} |\n", reason.word, reason.text);
    }
    text + "\n"
}

/// Compares the page with the table, or writes it.
pub fn compare(table: &Table) {
    let file = root().join(PAGE);
    let page = std::fs::read_to_string(&file).expect("the page");
    let (head, rest) = page.split_once(BEGIN).expect("the first mark");
    let (_, tail) = rest.split_once(END).expect("the second mark");
    let new = format!("{head}{BEGIN}{}{END}{tail}", rendered(table));
    if page == new {
        return;
    }
    if blesses() {
        std::fs::write(&file, new).expect("written");
        blessed(PAGE);
    }
    panic!("{PAGE} is not what the test has seen; BLESS=1 writes it:\n{new}");
}
