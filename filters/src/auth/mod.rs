//! Who calls: bearer tokens, API keys, certificates.
