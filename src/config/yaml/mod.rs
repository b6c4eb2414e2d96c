//! The text of a config file: parsed to nodes with places, interpolated, masked, deserialized.

pub mod deserialize;
pub mod interpolate;
pub mod line;
pub mod mask_secrets;
pub mod node;
pub mod parser;
pub mod print;
pub mod source;
pub mod syntax_error;
