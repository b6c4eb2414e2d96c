//! From the text of a file to a tree, and from the tree to a [`Config`]: shared by `check`, start and reload.

use std::path::Path;
use std::rc::Rc;

use super::diagnostics::{Diagnostics, Files, NodeRef};
use super::dialect;
use super::yaml::interpolate::Environment;
use super::yaml::node::{Node, NodeValue, YamlError};
use super::yaml::parser;
use super::yaml::source::Source;
use super::yaml::{mask_secrets, print};
use super::{ByteSize, Config, ConfigErrors, MAX_FILE, MINIMUM, hash, root};

/// The context for reading a file.
#[derive(Clone, Copy)]
pub(super) struct LoadContext<'e> {
    pub environment: &'e Environment<'e>,
    /// `None` where no other file is read.
    pub files: Option<&'e Files<'e>>,
    /// The folder of the file.
    pub folder: Option<&'e Path>,
}

/// The result of reading a file.
pub(super) struct LoadOutcome {
    pub config: Result<Config, ConfigErrors>,
    /// The file in the format of this gateway, if it has a readable tree.
    pub tree: Option<Rc<Node>>,
    /// The only error is that the file is a fragment; `tree` is the complete file.
    pub is_partial: bool,
}

/// Reads the text of a file. `name` appears in errors, and decides whether it is TOML.
pub(super) fn read(name: &str, text: &str, context: LoadContext<'_>) -> LoadOutcome {
    let failed = |errors| LoadOutcome { config: Err(errors), tree: None, is_partial: false };
    if text.len() as u64 > MAX_FILE {
        return failed(ConfigErrors::whole(
            name,
            format!("the file is larger than {}", ByteSize::of(MAX_FILE)),
            "",
        ));
    }
    // Some editors put a byte-order mark before the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let diagnostics = Diagnostics::new(Source::new(text), context.files);
    let parsed = match tree(name, diagnostics.source(), text) {
        Ok((Some(root), errors)) => {
            diagnostics.mask(mask_secrets::secrets(&root, diagnostics.source()));
            errors.into_iter().for_each(|error| diagnostics.yaml_error(error));
            root
        }
        Ok((None, _)) => return failed(ConfigErrors::whole(name, "the file is empty", MINIMUM)),
        Err(error) => {
            if !dialect::is_toml(name)
                && let Ok(Some(root)) = dialect::parse_toml(text)
            {
                return failed(wrong_extension(name, &root, context));
            }
            diagnostics.syntax_error(error, dialect::is_toml(name));
            return failed(diagnostics.finish(name, None::<()>).expect_err("the text is not valid"));
        }
    };
    if !dialect::is_toml(name)
        && matches!(parsed.value, NodeValue::Scalar(_))
        && let Ok(Some(root)) = dialect::parse_toml(text)
    {
        return failed(wrong_extension(name, &root, context));
    }
    let folder = context.folder.map(workspace);
    let (root, bare) =
        dialect::translate(&parsed, &diagnostics, context.environment, folder, dialect::scan(text).is_some());
    // Secrets stay secret under the key names of other programs.
    let mut secrets = mask_secrets::secrets(&parsed, diagnostics.source());
    secrets.extend(mask_secrets::secrets(&root, diagnostics.source()));
    diagnostics.mask(secrets);
    diagnostics.interpolate(&root, context.environment);
    let config = root::config(&NodeRef::root(&diagnostics, &root));
    let notes = diagnostics.notes();
    let is_partial = bare.is_some() && config.is_some() && diagnostics.is_clean();
    if let Some(bare) = bare {
        let (message, help) = bare.message_and_help(&root);
        diagnostics.file_error(message, &help);
    }
    let config = diagnostics.finish(name, config).map(|config| Config { hash: hash(text), notes, ..config });
    LoadOutcome { config, tree: Some(root), is_partial }
}

/// The tree of a file: TOML by its name, else YAML, which includes JSON. Also JSON with comments, and JSON
/// members without braces around them.
pub(super) fn tree(
    name: &str,
    source: &Source<'_>,
    text: &str,
) -> Result<(Option<Rc<Node>>, Vec<YamlError>), YamlError> {
    if dialect::is_toml(name) {
        return dialect::parse_toml(text).map(|root| (root, Vec::new()));
    }
    let plain = dialect::plain(text);
    let text = plain.as_deref().unwrap_or(text);
    let parsed = parser::parse(source, text, 0);
    if parsed.is_err() && dialect::is_bare(text) {
        let whole = format!("{{ {}\n}}", text.trim_end().trim_end_matches(','));
        if let Ok(parsed) = parser::parse(source, &whole, 2) {
            return Ok(parsed);
        }
    }
    if parsed.is_err()
        && let Some(loose) = dialect::loose(text)
        && let Ok(parsed) = parser::parse(source, &loose, 0)
    {
        return Ok(parsed);
    }
    parsed
}

/// TOML in a file whose name does not end with `.toml`.
fn wrong_extension(name: &str, root: &Rc<Node>, context: LoadContext<'_>) -> ConfigErrors {
    let text = "";
    let diagnostics = Diagnostics::new(Source::new(text), None);
    let (root, _) = dialect::translate(root, &diagnostics, context.environment, None, false);
    let servers = root.entries().iter().filter(|entry| entry.key == "mcpServers").cloned().collect();
    let (yaml, _) = print::masked(&Node::new(0..0, NodeValue::Map(servers)));
    let help = format!("rename it, or write it as YAML:\n{yaml}");
    ConfigErrors::whole(name, "the file is TOML, but its name does not end with .toml", help)
}

/// The workspace of a file in this folder, as an editor calls it: the folder above `.vscode` and similar
/// ones.
fn workspace(folder: &Path) -> String {
    let hidden = folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
    let above = if hidden { folder.parent().unwrap_or(folder) } else { folder };
    if above.as_os_str().is_empty() { ".".into() } else { above.display().to_string() }
}
