//! The text of a configuration file: parsed to nodes with places, variables filled in, secrets masked, read into types.

pub mod deserialize;
pub mod interpolate;
pub mod line;
pub mod mask_secrets;
pub mod node;
pub mod parser;
pub mod print;
pub mod source;
pub mod syntax_error;
