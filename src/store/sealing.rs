//! Seals what leaves the process and must come back unchanged and unread: a `requestState` now, stored secrets
//! later.
//!
//! AES-256-GCM with a random nonce, under a key that HKDF-SHA-256 derives from a secret for each purpose: what
//! was sealed for one purpose opens for no other. The first secret seals; all open, so that a secret can be
//! replaced while older texts are still on their way. Without a configured secret a random one is used, which
//! this process alone knows.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Bytes of a secret.
pub const SECRET_LEN: usize = 32;
/// Bytes of the id of a secret, in front of the sealed text.
const KEY_ID_LEN: usize = 4;
const SALT: &[u8] = b"toolgate sealing v1";

/// What a text is sealed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `requestState` of a result that asks for input (2026-07-28, basic/utilities/mrtr).
    RequestState,
    /// The outward id of a task (SEP-2663).
    TaskId,
    /// Messages to another gateway process.
    ProcessMessage,
    /// What Redis keeps of a task.
    TaskRecord,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::RequestState => b"requestState",
            Self::TaskId => b"taskId",
            Self::ProcessMessage => b"process message",
            Self::TaskRecord => b"task record",
        }
    }
}

/// The secrets, the newest first.
pub struct Keyring(Vec<SealingKey>);

/// The secrets of a process, which a reload may replace.
pub type SharedKeyring = Arc<ArcSwap<Keyring>>;

struct SealingKey {
    id: [u8; KEY_ID_LEN],
    root: Prk,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.0.len())
    }
}

struct IdLength;

impl KeyType for IdLength {
    fn len(&self) -> usize {
        KEY_ID_LEN
    }
}

impl SealingKey {
    fn new(secret: &[u8; SECRET_LEN]) -> Self {
        let root = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let mut id = [0; KEY_ID_LEN];
        root.expand(&[b"key id"], IdLength)
            .and_then(|key| key.fill(&mut id))
            .expect("four bytes are not too many for HKDF");
        Self { id, root }
    }

    fn key(&self, purpose: Purpose) -> LessSafeKey {
        let label = [purpose.label()];
        let key = self.root.expand(&label, &AES_256_GCM).expect("a key is not too long for HKDF");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

impl Keyring {
    /// A secret that only this process knows.
    pub fn random() -> Self {
        let mut secret = [0; SECRET_LEN];
        getrandom::fill(&mut secret).expect("the system gives random bytes");
        Self(vec![SealingKey::new(&secret)])
    }

    /// The first secret seals, all open; without any a random one does both.
    pub fn new(secrets: &[[u8; SECRET_LEN]]) -> Self {
        match secrets {
            [] => Self::random(),
            secrets => Self(secrets.iter().map(SealingKey::new).collect()),
        }
    }

    /// Seals a text, as base64url without padding.
    pub fn seal(&self, purpose: Purpose, text: &[u8]) -> String {
        let key = &self.0[0];
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the system gives random bytes");
        let mut sealed = text.to_vec();
        key.key(purpose)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.id), &mut sealed)
            .expect("a short text can be sealed");
        URL_SAFE_NO_PAD.encode([&key.id[..], &nonce, &sealed].concat())
    }

    /// The text that was sealed for this purpose; `None` if it was not, was changed, or the secret is gone.
    pub fn open(&self, purpose: Purpose, sealed: &str) -> Option<Vec<u8>> {
        let raw = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (id, rest) = raw.split_first_chunk::<KEY_ID_LEN>()?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.0.iter().find(|key| key.id == *id)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.key(purpose).open_in_place(nonce, Aad::from(*id), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: Purpose = Purpose::RequestState;

    #[test]
    fn what_was_sealed_opens_with_the_same_secret_only() {
        let (old, new) = ([1; SECRET_LEN], [2; SECRET_LEN]);
        let sealed = Keyring::new(&[old]).seal(STATE, b"text");
        assert!(!sealed.contains("text"));
        let rotated = Keyring::new(&[new, old]);
        assert_eq!(rotated.open(STATE, &sealed).as_deref(), Some(&b"text"[..]), "an old secret still opens");
        assert_eq!(Keyring::new(&[new]).open(STATE, &sealed), None);
        assert_eq!(
            Keyring::new(&[old]).open(STATE, &rotated.seal(STATE, b"text")),
            None,
            "the new one seals"
        );
        assert_eq!(Keyring::random().open(STATE, &sealed), None);
        assert_ne!(rotated.seal(STATE, b"text"), rotated.seal(STATE, b"text"), "another nonce each time");
    }

    #[test]
    fn a_changed_text_does_not_open() {
        let keyring = Keyring::random();
        let sealed = keyring.seal(STATE, b"the text");
        let raw = URL_SAFE_NO_PAD.decode(&sealed).expect("base64");
        for at in 0..raw.len() {
            let mut changed = raw.clone();
            changed[at] ^= 1;
            assert_eq!(keyring.open(STATE, &URL_SAFE_NO_PAD.encode(&changed)), None, "byte {at}");
            assert_eq!(keyring.open(STATE, &URL_SAFE_NO_PAD.encode(&raw[..at])), None, "cut at {at}");
        }
        for other in ["", "!", "AAAA", &format!("{sealed}A"), &format!("{sealed}=")] {
            assert_eq!(keyring.open(STATE, other), None, "{other}");
        }
    }
}
