//! The text of a file becomes a tree, the tree a [`Config`]: the one way that `check`, start and reload share.

use std::path::Path;
use std::rc::Rc;

use super::diagnostics::{Files, Inquest, Spot};
use super::dialect;
use super::yaml::interpolate::Environment;
use super::yaml::node::{Node, Value, Wrong};
use super::yaml::parser;
use super::yaml::source::Source;
use super::yaml::{mask_secrets, print};
use super::{Config, Faults, MAX_FILE, MINIMUM, Size, hash, root};

/// What a file is read with.
#[derive(Clone, Copy)]
pub(super) struct Outside<'e> {
    pub environment: &'e Environment<'e>,
    /// `None` where no other file is looked at.
    pub files: Option<&'e Files<'e>>,
    /// Where the file lies.
    pub folder: Option<&'e Path>,
}

/// What came of a file.
pub(super) struct Outcome {
    pub config: Result<Config, Faults>,
    /// The file in our words, if it could be read as a tree.
    pub tree: Option<Rc<Node>>,
    /// It is sound but for being a piece of a file, which the tree is whole.
    pub piece: bool,
}

/// Reads the text of a file; `name` is what the faults call it, and says whether it is TOML.
pub(super) fn read(name: &str, text: &str, outside: Outside<'_>) -> Outcome {
    let failed = |faults| Outcome { config: Err(faults), tree: None, piece: false };
    if text.len() as u64 > MAX_FILE {
        return failed(Faults::whole(name, format!("the file is larger than {}", Size::of(MAX_FILE)), ""));
    }
    // Some editors put a byte-order mark before the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let inquest = Inquest::new(Source::new(text), outside.files);
    let planted = match tree(name, inquest.source(), text) {
        Ok((Some(root), wrongs)) => {
            inquest.blot(mask_secrets::secrets(&root, inquest.source()));
            wrongs.into_iter().for_each(|wrong| inquest.wrong(wrong));
            root
        }
        Ok((None, _)) => return failed(Faults::whole(name, "the file is empty", MINIMUM)),
        Err(wrong) => {
            if !dialect::is_toml(name)
                && let Ok(Some(root)) = dialect::plant_toml(text)
            {
                return failed(misnamed(name, &root, outside));
            }
            inquest.torn(wrong, dialect::is_toml(name));
            return failed(inquest.close(name, None::<()>).expect_err("the text is torn"));
        }
    };
    if !dialect::is_toml(name)
        && matches!(planted.value, Value::Scalar(_))
        && let Ok(Some(root)) = dialect::plant_toml(text)
    {
        return failed(misnamed(name, &root, outside));
    }
    let folder = outside.folder.map(workspace);
    let (root, bare) =
        dialect::translate(&planted, &inquest, outside.environment, folder, dialect::scan(text).is_some());
    // What another program calls otherwise is secret all the same.
    let mut secrets = mask_secrets::secrets(&planted, inquest.source());
    secrets.extend(mask_secrets::secrets(&root, inquest.source()));
    inquest.blot(secrets);
    inquest.fill(&root, outside.environment);
    let config = root::config(&Spot::root(&inquest, &root));
    let notes = inquest.notes();
    let piece = bare.is_some() && config.is_some() && inquest.is_clean();
    if let Some(bare) = bare {
        let (message, help) = bare.words(&root);
        inquest.whole(message, &help);
    }
    let config = inquest.close(name, config).map(|config| Config { hash: hash(text), notes, ..config });
    Outcome { config, tree: Some(root), piece }
}

/// The tree of a file: TOML by its name, else YAML, of which JSON is a part; JSON with comments, and members of JSON without
/// the brace around them.
pub(super) fn tree(
    name: &str,
    source: &Source<'_>,
    text: &str,
) -> Result<(Option<Rc<Node>>, Vec<Wrong>), Wrong> {
    if dialect::is_toml(name) {
        return dialect::plant_toml(text).map(|root| (root, Vec::new()));
    }
    let plain = dialect::plain(text);
    let text = plain.as_deref().unwrap_or(text);
    let planted = parser::plant(source, text, 0);
    if planted.is_err() && dialect::is_bare(text) {
        let whole = format!("{{ {}\n}}", text.trim_end().trim_end_matches(','));
        if let Ok(planted) = parser::plant(source, &whole, 2) {
            return Ok(planted);
        }
    }
    if planted.is_err()
        && let Some(loose) = dialect::loose(text)
        && let Ok(planted) = parser::plant(source, &loose, 0)
    {
        return Ok(planted);
    }
    planted
}

/// TOML in a file whose name does not say so.
fn misnamed(name: &str, root: &Rc<Node>, outside: Outside<'_>) -> Faults {
    let text = "";
    let inquest = Inquest::new(Source::new(text), None);
    let (root, _) = dialect::translate(root, &inquest, outside.environment, None, false);
    let servers = root.entries().iter().filter(|entry| entry.key == "mcpServers").cloned().collect();
    let (yaml, _) = print::masked(&Node::new(0..0, Value::Map(servers)));
    let help = format!("give the file a name that ends with .toml, or write it as YAML:\n{yaml}");
    Faults::whole(name, "this is TOML, and the file's name does not say so", help)
}

/// What an editor calls the workspace of a file that lies in this folder: the folder above `.vscode` and those like it.
fn workspace(folder: &Path) -> String {
    let hidden = folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
    let above = if hidden { folder.parent().unwrap_or(folder) } else { folder };
    if above.as_os_str().is_empty() { ".".into() } else { above.display().to_string() }
}
