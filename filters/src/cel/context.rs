//! The values of a condition's variables in one call. Each value is made on first use, so that a rule about a
//! tool's name does not pay for the claims of a token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::OnceLock;

use cel::common::types::{CelList, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::cost;
use super::cost::Fuel;
use super::fields::fields;
use super::value::{self, Arguments, InvalidArguments};
use crate::request::{CallTarget, Caller, TargetKind};

type CelMembers<'a> = HashMap<CelMapKey<'a>, Box<dyn Val + 'a>>;

/// One call, as conditions see it.
pub struct CelContext<'a> {
    caller: &'a Caller,
    method: &'a str,
    target: Option<CallTarget<'a>>,
    raw: Option<&'a [u8]>,
    address: Option<IpAddr>,
    fuel: Option<&'a Fuel>,
    arguments: OnceLock<Result<Arguments<'a>, InvalidArguments>>,
    ip: OnceLock<String>,
    roles: OnceLock<CelList<'a>>,
    scopes: OnceLock<CelList<'a>>,
    claims: OnceLock<CelMap<'a>>,
}

impl<'a> CelContext<'a> {
    /// A call without known arguments and address.
    pub fn new(caller: &'a Caller, method: &'a str, target: Option<CallTarget<'a>>) -> Self {
        Self {
            caller,
            method,
            target,
            raw: None,
            address: None,
            fuel: None,
            arguments: OnceLock::new(),
            ip: OnceLock::new(),
            roles: OnceLock::new(),
            scopes: OnceLock::new(),
            claims: OnceLock::new(),
        }
    }

    /// The same call with all there is to it.
    pub fn with_request(mut self, arguments: Option<&'a [u8]>, ip: Option<IpAddr>) -> Self {
        self.raw = arguments;
        self.address = ip;
        self
    }

    /// The same, with its cost charged to the budget of a list.
    pub fn fuelled(mut self, fuel: Option<&'a Fuel>) -> Self {
        self.fuel = fuel;
        self
    }

    pub(super) fn fuel(&self) -> Option<&'a Fuel> {
        self.fuel
    }

    /// Why the arguments cannot be evaluated, if they cannot.
    pub(super) fn arguments_error(&self) -> Option<InvalidArguments> {
        self.arguments().as_ref().err().copied()
    }

    fn arguments(&self) -> &Result<Arguments<'a>, InvalidArguments> {
        self.arguments.get_or_init(|| Arguments::read(self.raw.unwrap_or(b"{}")))
    }

    /// The name of the target, if it is of the kind `thing`.
    fn name(&self, kind: TargetKind) -> &'a str {
        self.target.filter(|target| target.kind == kind).map_or("", |target| target.name)
    }

    fn ip(&self) -> &str {
        self.ip.get_or_init(|| self.address.map_or_else(String::new, |ip| ip.to_canonical().to_string()))
    }

    fn field<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let text = |text: &'b str| Some(CowVal::owned(CelString::from(text)));
        let maybe = |of: &'b Option<String>| text(of.as_deref().unwrap_or(""));
        match name {
            "call.args" => self.arguments().as_ref().ok().map(|args| CowVal::Borrowed(args.value())),
            "call.tool" => text(self.name(TargetKind::Tool)),
            "call.prompt" => text(self.name(TargetKind::Prompt)),
            "call.resource" => text(self.name(TargetKind::Resource)),
            "call.method" => text(self.method),
            "server.name" => text(self.target.map_or("", |target| target.server)),
            "caller.roles" => {
                Some(CowVal::Borrowed(self.roles.get_or_init(|| value::strings(&self.caller.roles))))
            }
            "caller.scopes" => {
                Some(CowVal::Borrowed(self.scopes.get_or_init(|| value::strings(&self.caller.scopes))))
            }
            "caller.claims" => {
                let made = || {
                    self.fuel.into_iter().for_each(Fuel::pay_claims);
                    value::object(&self.caller.claims)
                };
                Some(CowVal::Borrowed(self.claims.get_or_init(made)))
            }
            "caller.user" => text(&self.caller.user),
            "caller.tenant" => maybe(&self.caller.tenant),
            "caller.issuer" => maybe(&self.caller.issuer),
            "caller.key" => maybe(&self.caller.api_key_id),
            "caller.via" => text(self.caller.auth_method.as_str()),
            "caller.ip" => text(self.ip()),
            _ => None,
        }
    }

    /// A whole variable, for conditions that access it by key.
    fn whole<'b>(&'b self, root: &str, fields: &[&'static str]) -> Option<CowVal<'b, 'b>> {
        let mut members: CelMembers<'b> = HashMap::with_capacity(fields.len());
        for field in fields {
            let Some(value) = self.field(&format!("{root}.{field}")) else { continue };
            // Each pass of a loop copies it again.
            cost::charge_value(value.as_ref()).ok()?;
            members.insert(CelMapKey::from(*field), value.into_owned());
        }
        Some(CowVal::owned(CelMap::from(members)))
    }
}

/// The evaluator resolves `call.args.env` first, then `call.args`, then `call`, and takes the first known
/// one. So fields need no map around them.
impl VariableResolver for CelContext<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match fields(variable) {
            Some(fields) => self.whole(variable, fields),
            None => self.field(variable),
        }
    }
}
