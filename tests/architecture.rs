//! Checks the floors of ARCHITECTURE.md: no file uses a floor above its own, and no two files or folders
//! use each other. Checks, too, that no two types have the same name.
//!
//! The test reads the paths that begin with `crate`, `super`, `self` or the name of a workspace crate, in
//! `use` items, in code and in the arguments of macros. Tests are exempt. So are a folder's `mod.rs` and
//! the files of that folder: a type and the files with its `impl` blocks are one thing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree};

/// A module: its crate, and the names of the modules that lead to it.
type Module = Vec<String>;

const CRATES: [(&str, &str); 3] = [("toolgate", "src"), ("filters", "filters/src"), ("mcp", "mcp/src")];

#[test]
fn no_arrow_goes_up() {
    let floors = floors();
    let files = files();
    let mut unknown = BTreeSet::new();
    let mut up = Vec::new();
    for (module, file) in &files {
        let Some(own) = floor(&floors, module) else {
            unknown.insert(folder(module).join("::"));
            continue;
        };
        for used in &file.uses {
            let Some(other) = floor(&floors, used) else { continue };
            if other > own {
                up.push(format!("{} (floor {own}) uses {} (floor {other})", shown(module), shown(used)));
            }
        }
    }
    assert!(unknown.is_empty(), "in no floor of ARCHITECTURE.md: {unknown:?}");
    assert!(up.is_empty(), "upward arrows:\n{}", up.join("\n"));
}

#[test]
fn no_two_folders_use_each_other() {
    let mut arrows: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, file) in files() {
        let from = folder(&module);
        for used in file.uses.iter().map(folder).filter(|used| *used != from) {
            arrows.entry(from.clone()).or_default().insert(used);
        }
    }
    assert_eq!(circles(&arrows), Vec::<String>::new(), "folders that use each other");
}

#[test]
fn no_two_files_use_each_other() {
    let files = files();
    let arrows = files
        .iter()
        .map(|(module, file)| {
            let others =
                file.uses.iter().filter(|used| !module.starts_with(used) && !used.starts_with(module));
            (module.clone(), others.cloned().collect())
        })
        .collect();
    assert_eq!(circles(&arrows), Vec::<String>::new(), "files that use each other");
}

/// Names that two types have, and why they may.
const NAMED_TWICE: [(&str, &str); 1] =
    [("KillHandle", "one is for Linux, the other for all other systems: only one of them is compiled")];

#[test]
fn no_two_types_have_the_same_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (module, file) in files() {
        for name in file.types {
            places.entry(name).or_default().push(shown(&module));
        }
    }
    assert!(places.len() > 500, "{} types were found", places.len());
    places.retain(|_, modules| modules.len() > 1);
    for (name, why) in NAMED_TWICE {
        assert!(places.remove(name).is_some(), "`{name}` has one type, so it needs no exception: {why}");
    }
    assert!(places.is_empty(), "types with the same name: find another for one, or share it\n{places:#?}");
}

#[test]
fn no_file_is_too_long() {
    const MOST: usize = 450;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut long = Vec::new();
    for folder in ["src", "filters", "mcp", "tests", "benches", "fuzz/fuzz_targets", "fuzz/src"] {
        for file in rust_files(&root.join(folder)) {
            let lines = fs::read_to_string(&file).expect("a readable file").lines().count();
            if lines > MOST {
                long.push(format!(
                    "{} has {lines} lines",
                    file.strip_prefix(root).unwrap_or(&file).display()
                ));
            }
        }
    }
    assert!(long.is_empty(), "more than {MOST} lines: look for the second noun\n{}", long.join("\n"));
}

struct File {
    uses: BTreeSet<Module>,
    /// The types that it defines, outside of functions and macros.
    types: Vec<String>,
}

/// The files of the three crates by their modules, with the modules that each uses.
fn files() -> BTreeMap<Module, File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = BTreeMap::new();
    for (name, folder) in CRATES {
        let folder = root.join(folder);
        for path in rust_files(&folder) {
            paths.insert(module(name, path.strip_prefix(&folder).expect("it is in the folder")), path);
        }
    }
    let known: BTreeSet<Module> = paths.keys().cloned().collect();
    paths
        .into_iter()
        .filter(|(module, _)| module.last().is_none_or(|name| !name.ends_with("tests")))
        .map(|(module, path)| {
            let text = fs::read_to_string(&path).expect("a readable file");
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut reader = Reader { module: &module, inner: 0, known: &known, uses: BTreeSet::new() };
            reader.visit_file(&parsed);
            let uses = reader.uses;
            let mut types = Vec::new();
            type_names(&parsed.items, &mut types);
            (module, File { uses, types })
        })
        .collect()
}

fn type_names(items: &[Item], names: &mut Vec<String>) {
    for item in items {
        let (attributes, name) = match item {
            Item::Struct(item) => (&item.attrs, &item.ident),
            Item::Enum(item) => (&item.attrs, &item.ident),
            Item::Union(item) => (&item.attrs, &item.ident),
            Item::Trait(item) => (&item.attrs, &item.ident),
            Item::Type(item) => (&item.attrs, &item.ident),
            Item::Mod(item) if !is_test(&item.attrs) => {
                type_names(item.content.as_ref().map_or(&[], |(_, items)| items), names);
                continue;
            }
            _ => continue,
        };
        if !is_test(attributes) {
            names.push(name.to_string());
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found
}

/// `src/proxy/retry.rs` is `["toolgate", "proxy", "retry"]`.
fn module(name: &str, path: &Path) -> Module {
    let path = path.with_extension("");
    let mut parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.pop_if(|last| ["mod", "lib"].contains(&last.as_str()));
    parts.insert(0, name.to_owned());
    parts
}

/// The unit that has a floor: a folder of the gateway, or a crate below it.
fn folder(module: &Module) -> Module {
    module.iter().take(if module[0] == "toolgate" { 2 } else { 1 }).cloned().collect()
}

fn shown(module: &Module) -> String {
    module.join("::")
}

/// Floor by folder, read from the table under `## Floors` in ARCHITECTURE.md: `| 3 | `catalog/` `server/` | … |`.
fn floors() -> BTreeMap<String, u32> {
    let text = include_str!("../ARCHITECTURE.md");
    let table = text.split("\n## ").find(|part| part.starts_with("Floors")).expect("a part called Floors");
    let mut floors = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let Ok(number) = cells[1].parse() else { continue };
        for name in cells[2].split('`').skip(1).step_by(2) {
            let name = name.trim_end_matches('/').trim_end_matches(".rs");
            assert!(floors.insert(name.to_owned(), number).is_none(), "{name} is on two floors");
        }
    }
    assert!(floors.len() > 10, "{} folders have a floor in ARCHITECTURE.md", floors.len());
    floors
}

fn floor(floors: &BTreeMap<String, u32>, module: &Module) -> Option<u32> {
    let name = match module.as_slice() {
        [name] if name == "toolgate" => "lib",
        [name, folder, ..] if name == "toolgate" => folder,
        [name, ..] => name,
        [] => return None,
    };
    floors.get(name).copied()
}

struct Reader<'a> {
    module: &'a Module,
    /// Modules within the file that is being read.
    inner: usize,
    known: &'a BTreeSet<Module>,
    uses: BTreeSet<Module>,
}

impl Reader<'_> {
    fn path(&mut self, path: &[String]) {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let mut whole: Module = match path.first().map(String::as_str) {
            Some("crate") => [&self.module[..1], &path[1..]].concat(),
            Some("self") if self.inner == 0 => [self.module, &path[1..]].concat(),
            Some("super") if ups > self.inner => {
                let up = (ups - self.inner).min(self.module.len() - 1);
                [&self.module[..self.module.len() - up], &path[ups..]].concat()
            }
            Some(name) if CRATES.iter().any(|(known, _)| *known == name) => path.to_vec(),
            _ => return,
        };
        while !whole.is_empty() && !self.known.contains(&whole) {
            whole.pop();
        }
        // A crate root only has what other files define.
        let root = whole.len() == 1 && whole[0] == self.module[0];
        if whole != *self.module && !whole.is_empty() && !root {
            self.uses.insert(whole);
        }
    }

    fn tree(&mut self, tree: &UseTree, before: &mut Vec<String>) {
        match tree {
            UseTree::Path(part) => {
                before.push(part.ident.to_string());
                self.tree(&part.tree, before);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
            UseTree::Name(name) => self.leaf(before, &name.ident),
            UseTree::Rename(name) => self.leaf(before, &name.ident),
            UseTree::Glob(_) => self.path(before),
        }
    }

    fn leaf(&mut self, before: &[String], name: &syn::Ident) {
        let name = name.to_string();
        let last = (name != "self").then_some(name);
        self.path(&before.iter().cloned().chain(last).collect::<Vec<_>>());
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if colons == 2 || path.is_empty() => path.push(name.to_string()),
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                other => {
                    self.path(&std::mem::take(&mut path));
                    match other {
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Ident(name) => path.push(name.to_string()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.path(&path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_test(&item.attrs) {
            return;
        }
        self.inner += usize::from(item.content.is_some());
        visit::visit_item_mod(self, item);
        self.inner -= usize::from(item.content.is_some());
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&item.tree, &mut Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(&path.segments.iter().map(|part| part.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

/// Each cycle once, by a plain form of Tarjan's algorithm: two modules are on a cycle if each can be
/// reached from the other.
fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    let reached = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Module> = arrows.get(from).into_iter().flatten().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(arrows.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&Module, BTreeSet<&Module>> = arrows.keys().map(|from| (from, reached(from))).collect();
    let mut found = BTreeSet::new();
    for (from, reached) in all.iter().filter(|(from, reached)| reached.contains(*from)) {
        let circle: Vec<&Module> = reached
            .iter()
            .copied()
            .filter(|other| all.get(*other).is_some_and(|back| back.contains(from)))
            .collect();
        let arrows = circle.iter().flat_map(|from| {
            arrows[*from]
                .iter()
                .filter(|to| circle.contains(to))
                .map(|to| format!("{} -> {}", shown(from), shown(to)))
        });
        found.insert(arrows.collect::<Vec<_>>().join(", "));
    }
    found.into_iter().collect()
}
