//! What goes in and comes back: argument schemas and secrets.
