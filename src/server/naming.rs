//! Qualified names: `server__tool`, at most 64 characters of `[A-Za-z0-9_-]`, because model providers reject
//! more. A name that does not fit is shortened with a hash of the whole, so that it never changes.

use sha2::{Digest as _, Sha256};

/// Longest name that model providers accept.
const MAX_NAME: usize = 64;

/// The qualified name of `name` on `server`; `prefix` is empty for none.
pub fn federated(prefix: &str, server: &str, name: &str) -> String {
    let whole = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}__{name}") };
    let fits = whole.len() <= MAX_NAME && whole.bytes().all(allowed);
    if fits {
        return whole;
    }
    let hash = fingerprint(server, name);
    let mut short: String =
        whole.chars().map(|c| if c.is_ascii() && allowed(c as u8) { c } else { '_' }).collect();
    short.truncate(MAX_NAME - hash.len() - 1);
    format!("{short}_{hash}")
}

fn allowed(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

/// Eight hex digits that distinguish two names permanently.
fn fingerprint(server: &str, name: &str) -> String {
    let digest = Sha256::new().chain_update(server).chain_update([0]).chain_update(name).finalize();
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_stay_apart() {
        assert_eq!(federated("files", "files", "read_file"), "files__read_file");
        assert_eq!(federated("", "files", "read_file"), "read_file");
        let long = "x".repeat(80);
        let (a, b) = (federated("s", "s", &format!("{long}a")), federated("s", "s", &format!("{long}b")));
        assert!(a.len() == 64 && b.len() == 64 && a != b);
        let dotted = federated("s", "s", "admin.delete");
        assert!(dotted.starts_with("s__admin_delete_") && dotted.len() == 24, "{dotted}");
        assert_ne!(dotted, federated("s", "s", "admin_delete"));
    }
}
