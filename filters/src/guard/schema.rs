//! A tool's compiled `inputSchema`, and the error for a caller whose arguments do not match it.
//!
//! The schema comes from the server, the arguments from the client. Neither is trusted, and both together
//! have a cost limit: `schema_cost` estimates the schema before compiling, and `metered_json` limits each
//! check at run time. Anything over the limit is rejected.
//!
//! References point into the same document (`#/…`) or are invalid: nothing is fetched. Patterns run in linear
//! time. Only a schema with look-around or back-references, which cannot be linear (validators for mail
//! addresses often use them), gets the backtracking engine. It has a step limit and a much higher price per
//! byte; a match over the limit counts as no match.
//!
//! `format` is not checked: the drafts call it an annotation, and servers use it as one.
//!
//! The text of a violation names members and expectations, never values: it goes into logs.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use mcp::Reason;
use serde_json::Value;

use super::metered_json::{BudgetExceeded, CheckBudget, Metered, MeteredValue, with_budget};
use super::schema_cost::{SchemaCost, estimate_cost};
use super::{cut, strict_json};
use mcp::Era;
use mcp::json::quote::quote;
use mcp::rejection::{Rejection, code};

/// Longest schema in bytes.
const SIZE: usize = 256 * 1024;
/// Accesses to values in one check, and in the search for its violations.
const MAX_VISITS: u64 = 4_000_000;
const MAX_REPORT_VISITS: u64 = 200_000;
/// Levels of arguments times levels of a circular schema: the nesting limit of a check.
const NESTING: u32 = 1000;
/// Bytes of a compiled pattern.
const PATTERN_SIZE: usize = 256 * 1024;
/// Steps of one match of a pattern that is tried out.
const STEPS: usize = 2000;
/// The number of reported violations, and the bytes of each.
const MAX_VIOLATIONS: usize = 8;
const MAX_MESSAGE: usize = 200;

/// A compiled schema for arguments.
pub struct Schema {
    validator: Validator<Metered>,
    cost: SchemaCost,
    /// Has patterns that are tried out.
    backtracks: bool,
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the arguments.
    pub path: String,
    /// The expectation there.
    pub what: String,
}

impl Schema {
    /// Compiles the bytes of an `inputSchema`, or returns why it is unusable. Without `$schema` it is read as
    /// draft 2020-12, as MCP says.
    pub fn compile(text: &[u8]) -> Result<Schema, String> {
        if text.len() > SIZE {
            return Err(format!("it is longer than {SIZE} bytes"));
        }
        let schema = strict_json::read(text)?;
        let cost = estimate_cost(&schema)?;
        let mut options = jsonschema::options_for::<Metered>().should_validate_formats(false);
        if schema.get("$schema").is_none() {
            options = options.with_draft(Draft::Draft202012);
        }
        let linear = PatternOptions::regex().size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE);
        let tried = PatternOptions::fancy_regex()
            .backtrack_limit(STEPS)
            .size_limit(PATTERN_SIZE)
            .dfa_size_limit(PATTERN_SIZE);
        let build = |options: jsonschema::ValidationOptions<'_, _, Metered>| {
            with_budget(CheckBudget { left: MAX_VISITS, per_chunk: 1, per_child: 1 }, || {
                options.build(&schema)
            })
            .map_err(|BudgetExceeded| "it takes too long to compile".to_owned())?
            .map_err(|e| cut(&e.masked().to_string(), MAX_MESSAGE).to_owned())
        };
        if let Ok(validator) = build(options.clone().with_pattern_options(linear)) {
            return Ok(Schema { validator, cost, backtracks: false });
        }
        let validator = build(options.with_pattern_options(tried))?;
        Ok(Schema { validator, cost, backtracks: true })
    }

    /// Validates the arguments of a call; no arguments are an empty object.
    pub fn check(&self, arguments: Option<&[u8]>) -> Result<(), Vec<Violation>> {
        let whole =
            |what: &str| vec![Violation { path: String::new(), what: cut(what, MAX_MESSAGE).to_owned() }];
        let arguments = strict_json::read(arguments.unwrap_or(b"{}")).map_err(|e| whole(&e))?;
        if self.cost.circular && self.cost.height.saturating_mul(depth(&arguments)) > NESTING {
            return Err(whole("nested too deep to be checked"));
        }
        let budget = CheckBudget {
            left: MAX_VISITS,
            per_chunk: if self.backtracks { 1024 } else { 1 },
            per_child: 1 + self.cost.no_op / 16,
        };
        match with_budget(budget, || self.validator.is_valid(MeteredValue(&arguments))) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(BudgetExceeded) => {
                return Err(whole("too much to be checked; send less, or simpler arguments"));
            }
        }
        let budget = CheckBudget { left: MAX_REPORT_VISITS, ..budget };
        let all = || {
            self.validator
                .iter_errors(MeteredValue(&arguments))
                .take(MAX_VIOLATIONS)
                .map(|e| violation(&e))
                .collect()
        };
        let first = || self.validator.validate(MeteredValue(&arguments)).err().map(|e| vec![violation(&e)]);
        let labels: Option<Vec<Violation>> =
            with_budget(budget, all).ok().or_else(|| with_budget(budget, first).ok().flatten());
        Err(labels.filter(|labels| !labels.is_empty()).unwrap_or_else(|| whole("do not fit the inputSchema")))
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema")
            .field("cost", &self.cost)
            .field("hard", &self.backtracks)
            .finish_non_exhaustive()
    }
}

/// The rejection of a call, as text that a model can act on.
pub fn rejection(tool: &str, violations: &[Violation], client_era: Era) -> Rejection {
    let status = client_era.codec().status_of(code::INVALID_PARAMS);
    let words: Vec<String> = violations
        .iter()
        .map(|v| format!("{}: {}", if v.path.is_empty() { "the arguments" } else { &v.path }, v.what))
        .collect();
    let parts: Vec<String> = violations
        .iter()
        .map(|v| format!(r#"{{"path":{},"message":{}}}"#, quote(&v.path), quote(&v.what)))
        .collect();
    let message =
        format!("Arguments of `{}` do not fit its inputSchema: {}", cut(tool, MAX_MESSAGE), words.join("; "));
    Rejection::new(status, code::INVALID_PARAMS, Reason::InvalidArguments, message)
        .with_data(format!(r#"{{"violations":[{}]}}"#, parts.join(",")))
}

fn depth(value: &Value) -> u32 {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

fn violation(error: &ValidationError<'_>) -> Violation {
    let path = cut(error.instance_path().as_str(), MAX_MESSAGE).to_owned();
    Violation { path, what: cut(&expectation(error, true), MAX_MESSAGE).to_owned() }
}

/// The expectation. It never names the actual value, only its type.
fn expectation(error: &ValidationError<'_>, outermost: bool) -> String {
    use ValidationErrorKind as Kind;
    match error.kind() {
        Kind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(set) => set.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(" or "),
            };
            format!("expected {expected}, got {}", type_word(error.instance()))
        }
        Kind::Required { property } => {
            format!("the property `{}` is missing", property.as_str().unwrap_or_default())
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let names: Vec<String> =
                unexpected.iter().take(MAX_VIOLATIONS).map(|name| format!("`{name}`")).collect();
            format!("unknown property {}", names.join(", "))
        }
        Kind::Enum { options } => match &**options {
            Value::Array(options) => {
                let all: Vec<String> = options.iter().take(20).map(Value::to_string).collect();
                format!("expected one of {}", all.join(", "))
            }
            _ => "expected one of a fixed list".into(),
        },
        Kind::Constant { expected_value } => format!("expected {expected_value}"),
        Kind::Minimum { limit } => format!("expected at least {limit}"),
        Kind::Maximum { limit } => format!("expected at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("expected more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("expected less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("expected a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("expected at least {limit} characters"),
        Kind::MaxLength { limit } => format!("expected at most {limit} characters"),
        Kind::MinItems { limit } => format!("expected at least {limit} items"),
        Kind::MaxItems { limit } => format!("expected at most {limit} items"),
        Kind::AdditionalItems { limit } => format!("expected at most {limit} items"),
        Kind::MinProperties { limit } => format!("expected at least {limit} properties"),
        Kind::MaxProperties { limit } => format!("expected at most {limit} properties"),
        Kind::UniqueItems => "expected items that differ from each other".into(),
        Kind::Pattern { pattern } => format!("expected text that matches the pattern {pattern}"),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "the text cannot be held against the pattern in a bounded time".into()
        }
        Kind::PropertyNames { error } => {
            format!("a property's name does not fit: {}", expectation(error, false))
        }
        Kind::FalseSchema => "nothing is allowed here".into(),
        Kind::UnevaluatedItems { .. } => "more items than are described".into(),
        Kind::Contains => "expected an item that fits `contains`".into(),
        Kind::Not { .. } => "expected anything but what `not` describes".into(),
        Kind::OneOfMultipleValid { .. } => "fits more than one of the forms in `oneOf`".into(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            let firsts = context.iter().filter_map(|form| form.first()).filter(|_| outermost);
            let mut reasons: Vec<String> = firsts.map(|e| expectation(e, false)).collect();
            reasons.dedup();
            match reasons.is_empty() {
                true => "fits none of the forms that are allowed".into(),
                false => format!("fits none of the forms that are allowed: {}", reasons.join("; or ")),
            }
        }
        other => format!("does not fit `{}`", other.keyword()),
    }
}

fn type_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
