//! The schema of a tool's arguments, compiled when the first call needs it: most tools are never called.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use filters::guard::Schema;

/// An `inputSchema` as the server wrote it, and the result of its compilation.
#[derive(Debug)]
pub struct LazySchema {
    text: Bytes,
    compiled: OnceLock<Result<Schema, String>>,
}

impl LazySchema {
    pub fn new(text: Bytes) -> Arc<Self> {
        Arc::new(Self { text, compiled: OnceLock::new() })
    }

    /// The compiled schema, or why it is invalid.
    pub fn get(&self) -> Result<&Schema, &str> {
        self.compiled.get_or_init(|| Schema::compile(&self.text)).as_ref().map_err(String::as_str)
    }
}
