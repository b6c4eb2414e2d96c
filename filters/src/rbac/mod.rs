//! Who may do what: roles over tools, prompts, resources, methods and servers, and rules in front of them.
//!
//! The order of a judgement:
//! 1. Methods are a gate of their own: a method that is denied to one of the caller's roles, or left out where a
//!    role lists methods, is refused whatever it touches.
//! 2. Rules, in their order; the first that matches decides. So an `allow` rule overrides what roles deny.
//!    A rule whose evaluation fails matches if it denies and does not if it allows.
//! 3. Roles: any `deny` of any role of the caller wins over any `allow`.
//! 4. The default.
//! 5. What is allowed may need scopes too.
//!
//! What a caller may not see is unknown to it: [`Rbac::sees`] and [`Judgement::Hidden`] are two sides of one
//! decision, which is made without looking at arguments or addresses. A rule that does look at them refuses
//! in plain words, because the caller sees the tool in its lists.
//!
//! It deliberately knows no catalog and writes no answer but the refusal.

mod decision_cache;
mod enforce;
mod roles;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cel::{Condition, Fuel, Outcome, Reads, Scene};
use crate::request::{Aim, Caller, Thing};
use crate::uri::{self, Odd};

use decision_cache::{Cache, Prefix};
pub use enforce::{Denied, unknown};
use roles::{Needs, Roles};

/// Label in metrics and logs.
pub const NAME: &str = "rbac";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Effect {
    Allow,
    #[default]
    Deny,
}

/// The block `rbac`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// For what no rule and no role speaks of.
    pub default: Effect,
    pub roles: Vec<Role>,
    pub rules: Vec<Rule>,
    pub scopes: Vec<ScopeNeed>,
}

/// Patterns a kind; `*` is any text, also one with `/`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lists {
    pub tools: Vec<String>,
    pub prompts: Vec<String>,
    pub resources: Vec<String>,
    pub methods: Vec<String>,
    pub servers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Role {
    pub name: String,
    /// Roles whose lists count for this one too. `admin` is not among what is inherited.
    pub inherits: Vec<String>,
    pub allow: Lists,
    pub deny: Lists,
    /// May use the gateway's own interfaces.
    pub admin: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: String,
    pub when: Condition,
    pub effect: Effect,
    /// What a caller is told that sees the tool.
    pub message: Option<String>,
}

/// Scopes that a call needs on top. Tools, prompts and resources are alternatives; methods and servers, where they
/// are listed, must fit as well.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScopeNeed {
    pub lists: Lists,
    pub require: Vec<String>,
}

/// The kinds of lists that a role has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    Tools,
    Prompts,
    Resources,
    Methods,
    Servers,
}

/// What decided. Indices are those of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// There is no block `rbac`, or nothing is touched and the method passes.
    Open,
    Rule(usize),
    /// The pattern at `glob` of this list of this role, which the caller has or inherits.
    Role {
        role: usize,
        effect: Effect,
        list: List,
        glob: usize,
    },
    /// Roles of the caller list methods, and none of them this one.
    Unlisted,
    Default,
    /// The rule denies because its condition failed, and how.
    Failed(usize, String),
}

/// What is asked of a call.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub method: &'a str,
    pub aim: Option<Aim<'a>>,
    /// `params.arguments` as they were sent.
    pub arguments: Option<&'a [u8]>,
    pub ip: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Allowed(Ground),
    /// Answer as if it did not exist.
    Hidden(Ground),
    /// The caller sees it, but may not do this; with the words of the rule.
    Refused(Ground, Option<String>),
    /// The method is not for this caller.
    Barred(Ground),
    /// Allowed, with a token that has more scopes: all those that the call needs.
    MissingScopes(Vec<String>),
    /// Patterns speak of resources, and this one's URI can be read as that of another.
    Ambiguous(Odd),
}

/// Callers of one class see the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Open,
    /// The roles that count, inherited ones too.
    Roles(Arc<[usize]>),
    /// All names of roles, because a rule reads them.
    Names(Arc<[String]>),
    Caller(u64),
}

/// The policy, compiled.
pub struct Rbac(Option<Policy>);

struct Policy {
    default: Effect,
    roles: Roles,
    rules: Vec<Rule>,
    scopes: Vec<Needs>,
    /// What the rules read of a caller to tell what it sees.
    reads: Reads,
    /// Roles, scopes or rules speak of resources.
    names_resources: bool,
    cache: Cache,
}

impl Rbac {
    /// No block `rbac`: everything passes, and nobody is an admin.
    pub fn open() -> Self {
        Self(None)
    }

    /// Whether there are no roles and rules at all.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    pub fn new(settings: Settings) -> Result<Self, String> {
        let fixed = settings.rules.iter().flat_map(|rule| rule.when.parts());
        let reads =
            fixed.fold(
                Reads::default(),
                |all, part| {
                    if part.reads.is_volatile() { all } else { all | part.reads }
                },
            );
        let roles = Roles::new(&settings.roles)?;
        let scopes: Vec<Needs> = settings.scopes.iter().map(Needs::new).collect::<Result<_, _>>()?;
        let names_resources = roles.name_resources()
            || scopes.iter().any(Needs::name_resources)
            || settings.rules.iter().any(|rule| rule.when.reads().resource);
        Ok(Self(Some(Policy {
            default: settings.default,
            roles,
            scopes,
            rules: settings.rules,
            reads,
            names_resources,
            cache: Cache::default(),
        })))
    }

    /// Whether lists show it: whether any call of it could pass. A rule that reads arguments or the address is
    /// undecided here; if it denies it hides nothing, if it allows it shows.
    pub fn sees(&self, caller: &Caller, aim: &Aim<'_>) -> bool {
        let Some(policy) = &self.0 else { return true };
        let Ok(name) = policy.name(aim) else { return false };
        policy.prefix(caller, first_method(aim.thing), Some(Aim { name: &name, ..*aim })).seen
    }

    /// The same for each name of a list, which costs no more than there is of `fuel` for all of them; none if it
    /// cannot be told for want of it.
    pub fn sees_within(&self, caller: &Caller, aim: &Aim<'_>, fuel: &Fuel) -> Option<bool> {
        let Some(policy) = &self.0 else { return Some(true) };
        let Ok(name) = policy.name(aim) else { return Some(false) };
        let aim = Aim { name: &name, ..*aim };
        policy.listed(caller, first_method(aim.thing), Some(aim), fuel).map(|prefix| prefix.seen)
    }

    /// False only if everything of the server is denied for sure.
    pub fn sees_server(&self, caller: &Caller, server: &str) -> bool {
        self.sees(caller, &Aim { thing: Thing::Server, name: "", server })
    }

    /// Whether the method passes the gate, whatever it touches.
    pub fn method(&self, caller: &Caller, method: &str) -> bool {
        self.0.as_ref().is_none_or(|p| p.roles.bars(&p.roles.of(&caller.roles), method).is_none())
    }

    pub fn judge(&self, caller: &Caller, query: &Query<'_>) -> Judgement {
        let Some(policy) = &self.0 else { return Judgement::Allowed(Ground::Open) };
        let Some(aim) = query.aim else { return policy.judge(caller, query, None) };
        match policy.name(&aim) {
            Ok(name) => {
                policy.judge(caller, &Query { aim: Some(Aim { name: &name, ..aim }), ..*query }, None)
            }
            Err(odd) => Judgement::Ambiguous(odd),
        }
    }

    /// Whether one of many uses that a single request asks for is allowed; false if there is too little fuel for them.
    pub fn allows_within(&self, caller: &Caller, query: &Query<'_>, fuel: &Fuel) -> bool {
        let (Some(policy), Some(aim)) = (&self.0, query.aim) else {
            return matches!(self.judge(caller, query), Judgement::Allowed(_));
        };
        let Ok(name) = policy.name(&aim) else { return false };
        let query = Query { aim: Some(Aim { name: &name, ..aim }), ..*query };
        let allowed = matches!(policy.judge(caller, &query, Some(fuel)), Judgement::Allowed(_));
        !fuel.take_out() && allowed
    }

    /// The scopes that such a call needs, sorted, each once.
    pub fn needed_scopes(&self, method: &str, aim: Option<&Aim<'_>>) -> Vec<String> {
        let Some(policy) = &self.0 else { return Vec::new() };
        let name = aim.and_then(|aim| policy.name(aim).ok());
        let aim = aim.zip(name.as_deref()).map(|(aim, name)| Aim { name, ..*aim });
        policy.needed_scopes(method, aim.as_ref())
    }

    /// Two callers of one class see the same lists.
    pub fn class(&self, caller: &Caller) -> Class {
        Class(match &self.0 {
            None => Kind::Open,
            Some(policy) if policy.reads.person => Kind::Caller(caller.serial()),
            Some(policy) if policy.reads.roles => Kind::Names(caller.roles.as_slice().into()),
            Some(policy) => Kind::Roles(policy.roles.of(&caller.roles).into()),
        })
    }

    /// Whether a role of the caller is an admin's.
    pub fn is_admin(&self, caller: &Caller) -> bool {
        self.0.as_ref().is_some_and(|policy| policy.roles.is_admin(&caller.roles))
    }
}

/// The method by which a thing is used; what lists show is what it would let through.
fn first_method(thing: Thing) -> &'static str {
    match thing {
        Thing::Tool => "tools/call",
        Thing::Prompt => "prompts/get",
        Thing::Resource => "resources/read",
        Thing::Server => "",
    }
}

impl Policy {
    /// What patterns and rules see of a thing's name: of a URI its normal form.
    fn name<'a>(&self, aim: &Aim<'a>) -> Result<Cow<'a, str>, Odd> {
        if aim.thing == Thing::Resource && self.names_resources {
            uri::normal(aim.name)
        } else {
            Ok(Cow::Borrowed(aim.name))
        }
    }

    fn judge(&self, caller: &Caller, query: &Query<'_>, fuel: Option<&Fuel>) -> Judgement {
        let known = |method| match fuel {
            None => Some(self.prefix(caller, method, query.aim)),
            Some(fuel) => self.listed(caller, method, query.aim, fuel),
        };
        let Some(prefix) = known(query.method) else { return Judgement::Hidden(Ground::Default) };
        if let Some(ground) = &prefix.barred {
            return Judgement::Barred(ground.clone());
        }
        if let Some(aim) = query.aim {
            let first = first_method(aim.thing);
            if first == query.method {
                if !prefix.seen {
                    return Judgement::Hidden(prefix.end.clone());
                }
            } else {
                // What a caller does not see it cannot touch by another method either.
                let Some(shown) = known(first) else { return Judgement::Hidden(Ground::Default) };
                if !shown.seen {
                    return Judgement::Hidden(shown.end.clone());
                }
            }
        }
        let (allowed, ground) = match self.undecided(caller, query, &prefix, fuel) {
            Some((effect, ground)) => (effect == Effect::Allow, ground),
            None => (prefix.allowed, prefix.end.clone()),
        };
        if !allowed {
            let message = match &ground {
                Ground::Rule(rule) | Ground::Failed(rule, _) => self.rules[*rule].message.clone(),
                _ => None,
            };
            return Judgement::Refused(ground, message);
        }
        match &prefix.missing {
            Some(scopes) => Judgement::MissingScopes(scopes.clone()),
            None => Judgement::Allowed(ground),
        }
    }

    /// Asks the rules that were left undecided, in their order.
    fn undecided(
        &self,
        caller: &Caller,
        query: &Query<'_>,
        prefix: &Prefix,
        fuel: Option<&Fuel>,
    ) -> Option<(Effect, Ground)> {
        if prefix.undecided.is_empty() {
            return None;
        }
        let scene = Scene::new(caller, query.method, query.aim).with(query.arguments, query.ip).fuelled(fuel);
        prefix.undecided.iter().find_map(|undecided| {
            let rule = &self.rules[undecided.rule];
            let said = rule.when.ask(&scene, |part| part.reads.is_volatile());
            matched(rule, undecided.rule, said.and(undecided.so_far.clone()))
        })
    }

    fn needed_scopes(&self, method: &str, aim: Option<&Aim<'_>>) -> Vec<String> {
        let fits = self.scopes.iter().filter(|needs| needs.fit(method, aim));
        let mut scopes: Vec<String> = fits.flat_map(|needs| needs.require.iter().cloned()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// What a rule decides whose condition says this; a failure denies and never allows.
fn matched(rule: &Rule, index: usize, said: Outcome) -> Option<(Effect, Ground)> {
    match (said, rule.effect) {
        (Outcome::True, effect) => Some((effect, Ground::Rule(index))),
        (Outcome::Failed(why), Effect::Deny) => Some((Effect::Deny, Ground::Failed(index, why))),
        (Outcome::False, _) | (Outcome::Failed(_), Effect::Allow) => None,
    }
}
