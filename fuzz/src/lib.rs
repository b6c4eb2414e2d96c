//! Reference readers for the targets, with which the gateway's are compared: written from the standards,
//! plain rather than fast, without shared code.

pub mod events;
pub mod json;
pub mod message;

/// Takes a number of up to 255 off the front.
pub fn number(data: &mut &[u8]) -> usize {
    let Some((first, rest)) = data.split_first() else { return 0 };
    *data = rest;
    usize::from(*first)
}

/// Cuts at the first of these bytes, which belongs to neither part.
pub fn cut(data: &[u8], at: u8) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == at) {
        Some(found) => (&data[..found], &data[found + 1..]),
        None => (data, &[]),
    }
}

/// A text with changes: pairs of a place and the byte that shall stand there, behind the end appended. A single place at
/// the end cuts the text there.
pub fn changed(text: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    for change in changes.chunks(2) {
        let place = usize::from(change[0]);
        match change {
            [_, byte] if place < text.len() => text[place] = *byte,
            [_, byte] => text.push(*byte),
            _ => text.truncate(place),
        }
    }
    text
}
