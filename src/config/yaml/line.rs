//! The line of an item in the file, to show later which line decided.

use std::fmt;

/// A line of the file, from 1.
///
/// Any two are equal, so that settings compare by meaning: an item that only moved within the file is no
/// change at a reload. So there is no `Hash` and no order either.
#[derive(Clone, Copy, Default)]
pub struct Line(usize);

impl Line {
    /// This line.
    pub const fn new(number: usize) -> Self {
        Self(number)
    }

    /// The number, from 1; 0 without a file.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl PartialEq for Line {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Line {}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_are_equal() {
        assert_eq!(Line::new(1), Line::new(2));
        assert_eq!((Line::new(7).get(), Line::new(7).to_string()), (7, "7".into()));
    }
}
