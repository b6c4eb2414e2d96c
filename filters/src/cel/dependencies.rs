//! What a conjunct reads. It is read from the tree, never from an evaluation: a part that one evaluation
//! skips may be evaluated in the next call.

use std::ops::BitOr;

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr};

use super::fields;

/// What a condition or a conjunct reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// `call.args`
    pub args: bool,
    /// `caller.ip`
    pub ip: bool,
    /// `caller.roles`
    pub roles: bool,
    /// Anything of the caller but roles and address.
    pub person: bool,
    /// `call.method`
    pub method: bool,
    /// `call.tool`, `call.prompt` or `call.resource`
    pub name: bool,
    /// `call.resource`
    pub resource: bool,
}

impl Dependencies {
    /// Differs between calls of one caller to one target.
    pub fn is_volatile(self) -> bool {
        self.args || self.ip
    }

    /// Reads anything that distinguishes two calls to a server.
    pub fn is_of_call(self) -> bool {
        self.args || self.method || self.name
    }

    pub(super) fn of(expr: &IdedExpr) -> Self {
        let mut reads = Self::default();
        reads.walk(expr);
        reads
    }

    fn walk(&mut self, expr: &IdedExpr) {
        match &expr.expr {
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(variable) => self.field(variable, &select.field),
                _ => self.walk(&select.operand),
            },
            Expr::Ident(variable) => {
                fields::fields(variable).into_iter().flatten().for_each(|field| self.field(variable, field));
            }
            _ => each(expr, &mut |inner| self.walk(inner)),
        }
    }

    fn field(&mut self, variable: &str, field: &str) {
        match (variable, field) {
            ("call", "args") => self.args = true,
            ("call", "method") => self.method = true,
            ("call", _) => {
                self.name = true;
                self.resource |= field == "resource";
            }
            ("caller", "ip") => self.ip = true,
            ("caller", "roles") => self.roles = true,
            ("caller", _) => self.person = true,
            _ => {}
        }
    }
}

impl BitOr for Dependencies {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            args: self.args | other.args,
            ip: self.ip | other.ip,
            roles: self.roles | other.roles,
            person: self.person | other.person,
            method: self.method | other.method,
            name: self.name | other.name,
            resource: self.resource | other.resource,
        }
    }
}

/// Calls `f` with the nodes right below a node.
pub(super) fn each<'e>(expr: &'e IdedExpr, f: &mut dyn FnMut(&'e IdedExpr)) {
    match &expr.expr {
        Expr::Call(call) => call.target.iter().map(|t| &**t).chain(&call.args).for_each(f),
        Expr::Comprehension(c) => {
            [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter().for_each(f);
        }
        Expr::List(list) => list.elements.iter().for_each(f),
        Expr::Map(map) => {
            for entry in &map.entries {
                match &entry.expr {
                    EntryExpr::MapEntry(entry) => [&entry.key, &entry.value].into_iter().for_each(&mut *f),
                    EntryExpr::StructField(field) => f(&field.value),
                }
            }
        }
        Expr::Select(select) => f(&select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}
