//! The places of a tree's nodes in the text of a condition.

use std::ops::Range;

use cel::IdedExpr;
use cel::common::ast::{Expr, SourceInfo};

use super::dependencies::each;

/// The places of a tree's nodes in the text.
pub(super) struct ExprSpans<'a> {
    text: &'a str,
    info: &'a SourceInfo,
}

impl<'a> ExprSpans<'a> {
    pub(super) fn new(text: &'a str, info: &'a SourceInfo) -> Self {
        Self { text, info }
    }

    /// The parser counts bytes; they are moved to the border of a character.
    fn byte(&self, at: usize) -> usize {
        self.text.ceil_char_boundary(at.min(self.text.len()))
    }

    pub(super) fn of(&self, expr: &IdedExpr) -> Range<usize> {
        let (mut start, mut end) = (usize::MAX, 0);
        self.widen(expr, &mut start, &mut end);
        if start > end {
            return 0..self.text.len();
        }
        start..end
    }

    fn widen(&self, expr: &IdedExpr, start: &mut usize, end: &mut usize) {
        if let Some((first, last)) = self.info.offset_for(expr.id) {
            let own = self.byte(first as usize)..self.byte((last as usize).saturating_add(1));
            *start = (*start).min(own.start);
            *end = (*end).max(own.end);
            if let Expr::Select(select) = &expr.expr {
                *end = (*end).max(self.field(own.start, &select.field).end);
            }
        }
        each(expr, &mut |inner| self.widen(inner, start, end));
        if let (Expr::Call(call), Some((at, _))) = (&expr.expr, self.info.offset_for(expr.id)) {
            let (before, from) = self.text.split_at(self.byte(at as usize));
            if from.starts_with('(') {
                *start =
                    (*start).min(before.trim_end().strip_suffix(&call.func_name).map_or(*start, str::len));
                *end += self.text[*end..].find(')').map_or(0, |closed| closed + 1);
            }
        }
    }

    /// The name of the selected field.
    pub(super) fn name(&self, select: &IdedExpr, field: &str) -> Range<usize> {
        let dot = self.info.offset_for(select.id).map_or(0, |(at, _)| at as usize);
        self.field(self.byte(dot), field)
    }

    /// The name of a field, somewhere after its dot.
    fn field(&self, after: usize, name: &str) -> Range<usize> {
        let rest = &self.text[after..];
        let at = after + rest.find(name).unwrap_or(0);
        at..(at + name.len()).min(self.text.len())
    }
}
