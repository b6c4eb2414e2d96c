//! Roles with their patterns compiled. Decisions are remembered a floor above, so a role is one set of patterns a
//! list, and nothing is merged.

use std::collections::HashMap;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Effect, Ground, List, Lists, Role, ScopeNeed};
use crate::request::{Aim, Thing};
use crate::uri;

/// Patterns that are asked together.
struct Globs {
    set: GlobSet,
    count: usize,
}

impl Globs {
    fn new(patterns: &[String]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).build();
            set.add(glob.map_err(|error| format!("the pattern `{pattern}`: {}", error.kind()))?);
        }
        let set = set.build().map_err(|error| format!("patterns that are too large together: {error}"))?;
        Ok(Self { set, count: patterns.len() })
    }

    /// The first pattern that fits.
    fn first(&self, name: &str) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        self.set.matches(name).into_iter().min()
    }
}

struct Side {
    tools: Globs,
    prompts: Globs,
    resources: Globs,
    methods: Globs,
    servers: Globs,
}

impl Side {
    fn new(lists: &Lists) -> Result<Self, String> {
        let of = |name: &str, patterns: &[String]| Globs::new(patterns).map_err(|e| format!("{name}: {e}"));
        Ok(Self {
            tools: of("tools", &lists.tools)?,
            prompts: of("prompts", &lists.prompts)?,
            resources: {
                let normal: Vec<String> = lists.resources.iter().map(|glob| uri::pattern(glob)).collect();
                of("resources", &normal)?
            },
            methods: of("methods", &lists.methods)?,
            servers: of("servers", &lists.servers)?,
        })
    }

    fn things(&self, thing: Thing) -> Option<(List, &Globs)> {
        match thing {
            Thing::Tool => Some((List::Tools, &self.tools)),
            Thing::Prompt => Some((List::Prompts, &self.prompts)),
            Thing::Resource => Some((List::Resources, &self.resources)),
            Thing::Server => None,
        }
    }

    /// The first pattern that fits a thing, or its server.
    fn first(&self, aim: &Aim<'_>) -> Option<(List, usize)> {
        let thing = self.things(aim.thing).and_then(|(list, globs)| Some((list, globs.first(aim.name)?)));
        thing.or_else(|| Some((List::Servers, self.servers.first(aim.server)?)))
    }

    /// The first list that speaks of anything on a server.
    fn any(&self) -> Option<List> {
        let things = [Thing::Tool, Thing::Prompt, Thing::Resource];
        things
            .into_iter()
            .filter_map(|t| self.things(t))
            .find(|(_, globs)| globs.count > 0)
            .map(|(list, _)| list)
    }
}

struct Compiled {
    allow: Side,
    deny: Side,
    /// Itself and all that it inherits from, sorted.
    line: Vec<usize>,
    admin: bool,
}

pub(super) struct Roles {
    all: Vec<Compiled>,
    named: HashMap<String, usize>,
}

impl Roles {
    pub(super) fn new(roles: &[Role]) -> Result<Self, String> {
        let mut named = HashMap::new();
        for (index, role) in roles.iter().enumerate() {
            if named.insert(role.name.clone(), index).is_some() {
                return Err(format!("the role `{}` stands twice", role.name));
            }
        }
        let mut above = Vec::new();
        for role in roles {
            let find = |name: &String| {
                let missing = || format!("the role `{}` inherits from `{name}`, which is no role", role.name);
                named.get(name).copied().ok_or_else(missing)
            };
            above.push(role.inherits.iter().map(find).collect::<Result<Vec<_>, _>>()?);
        }
        let mut all = Vec::new();
        for (index, role) in roles.iter().enumerate() {
            let at =
                |side: &'static str| move |error: String| format!("role `{}`, {side}.{error}", role.name);
            let line = line(index, &above)
                .ok_or_else(|| format!("the role `{}` inherits from itself", role.name))?;
            all.push(Compiled {
                allow: Side::new(&role.allow).map_err(at("allow"))?,
                deny: Side::new(&role.deny).map_err(at("deny"))?,
                line,
                admin: role.admin,
            });
        }
        Ok(Self { all, named })
    }

    /// The roles that count for a caller with these, sorted, each once. Names that are not known mean nothing.
    pub(super) fn of(&self, names: &[String]) -> Vec<usize> {
        let known = names.iter().filter_map(|name| self.named.get(name));
        let mut line: Vec<usize> = known.flat_map(|index| &self.all[*index].line).copied().collect();
        line.sort_unstable();
        line.dedup();
        line
    }

    /// Whether any role speaks of resources.
    pub(super) fn name_resources(&self) -> bool {
        let speaks = |side: &Side| side.resources.count > 0;
        self.all.iter().any(|role| speaks(&role.allow) || speaks(&role.deny))
    }

    pub(super) fn is_admin(&self, names: &[String]) -> bool {
        names.iter().filter_map(|name| self.named.get(name)).any(|index| self.all[*index].admin)
    }

    /// Why a method does not pass the gate.
    pub(super) fn bars(&self, roles: &[usize], method: &str) -> Option<Ground> {
        for &role in roles {
            if let Some(glob) = self.all[role].deny.methods.first(method) {
                return Some(Ground::Role { role, effect: Effect::Deny, list: List::Methods, glob });
            }
        }
        let mut lists =
            roles.iter().map(|role| &self.all[*role].allow.methods).filter(|m| m.count > 0).peekable();
        let always = matches!(method, "" | "initialize" | "ping" | "server/discover")
            || method.starts_with("notifications/");
        let barred = lists.peek().is_some() && !always && !lists.any(|globs| globs.first(method).is_some());
        barred.then_some(Ground::Unlisted)
    }

    /// What the roles say of a thing; nothing if they do not speak of it. A server as a whole is allowed to
    /// whoever may be allowed a part of it.
    pub(super) fn judge(&self, roles: &[usize], aim: &Aim<'_>) -> Option<(Effect, Ground)> {
        let side = |effect: Effect| {
            roles.iter().find_map(|&role| {
                let compiled = &self.all[role];
                let side = if effect == Effect::Deny { &compiled.deny } else { &compiled.allow };
                let (list, glob) = side.first(aim).or_else(|| {
                    let part = effect == Effect::Allow && aim.thing == Thing::Server;
                    if part { Some((side.any()?, 0)) } else { None }
                })?;
                Some((effect, Ground::Role { role, effect, list, glob }))
            })
        };
        side(Effect::Deny).or_else(|| side(Effect::Allow))
    }
}

/// A role and all above it; nothing if it is above itself.
fn line(start: usize, above: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut line = vec![start];
    let mut next = 0;
    while let Some(&role) = line.get(next) {
        for &parent in &above[role] {
            if parent == start {
                return None;
            }
            if !line.contains(&parent) {
                line.push(parent);
            }
        }
        next += 1;
    }
    line.sort_unstable();
    Some(line)
}

/// One entry of `scopes`.
pub(super) struct Needs {
    lists: Side,
    things: bool,
    pub require: Vec<String>,
}

impl Needs {
    pub(super) fn new(need: &ScopeNeed) -> Result<Self, String> {
        let lists = Side::new(&need.lists).map_err(|error| format!("scopes, {error}"))?;
        let things = lists.any().is_some();
        if !things && lists.methods.count == 0 && lists.servers.count == 0 {
            return Err("scopes that are needed for nothing: no list has a pattern".into());
        }
        Ok(Self { lists, things, require: need.require.clone() })
    }

    pub(super) fn name_resources(&self) -> bool {
        self.lists.resources.count > 0
    }

    pub(super) fn fit(&self, method: &str, aim: Option<&Aim<'_>>) -> bool {
        let thing = || {
            let (_, globs) = self.lists.things(aim?.thing)?;
            globs.first(aim?.name)
        };
        (!self.things || thing().is_some())
            && (self.lists.methods.count == 0 || self.lists.methods.first(method).is_some())
            && (self.lists.servers.count == 0
                || aim.is_some_and(|a| self.lists.servers.first(a.server).is_some()))
    }
}
