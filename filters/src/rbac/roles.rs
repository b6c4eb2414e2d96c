//! Roles with compiled patterns. `decision_cache` caches decisions, so a role has one set of patterns per
//! list, and roles are not merged.

use std::collections::HashMap;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{DecisionReason, Effect, PatternLists, Role, RoleList, ScopeNeed};
use crate::request::{CallTarget, TargetKind};
use crate::uri;

/// Patterns that are matched together.
struct OrderedGlobs {
    set: GlobSet,
    count: usize,
}

impl OrderedGlobs {
    fn new(patterns: &[String]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).build();
            set.add(glob.map_err(|error| format!("the pattern `{pattern}`: {}", error.kind()))?);
        }
        let set = set.build().map_err(|error| format!("patterns that are too large together: {error}"))?;
        Ok(Self { set, count: patterns.len() })
    }

    /// The first matching pattern.
    fn first(&self, name: &str) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        self.set.matches(name).into_iter().min()
    }
}

struct RolePatterns {
    tools: OrderedGlobs,
    prompts: OrderedGlobs,
    resources: OrderedGlobs,
    methods: OrderedGlobs,
    servers: OrderedGlobs,
}

impl RolePatterns {
    fn new(lists: &PatternLists) -> Result<Self, String> {
        let of =
            |name: &str, patterns: &[String]| OrderedGlobs::new(patterns).map_err(|e| format!("{name}: {e}"));
        Ok(Self {
            tools: of("tools", &lists.tools)?,
            prompts: of("prompts", &lists.prompts)?,
            resources: {
                let normal: Vec<String> =
                    lists.resources.iter().map(|glob| uri::normalize_pattern(glob)).collect();
                of("resources", &normal)?
            },
            methods: of("methods", &lists.methods)?,
            servers: of("servers", &lists.servers)?,
        })
    }

    fn globs_of(&self, kind: TargetKind) -> Option<(RoleList, &OrderedGlobs)> {
        match kind {
            TargetKind::Tool => Some((RoleList::Tools, &self.tools)),
            TargetKind::Prompt => Some((RoleList::Prompts, &self.prompts)),
            TargetKind::Resource => Some((RoleList::Resources, &self.resources)),
            TargetKind::Server => None,
        }
    }

    /// The first pattern that matches a target or its server.
    fn first(&self, target: &CallTarget<'_>) -> Option<(RoleList, usize)> {
        let by_target =
            self.globs_of(target.kind).and_then(|(list, globs)| Some((list, globs.first(target.name)?)));
        by_target.or_else(|| Some((RoleList::Servers, self.servers.first(target.server)?)))
    }

    /// The first list with a pattern over anything on a server.
    fn any(&self) -> Option<RoleList> {
        let kinds = [TargetKind::Tool, TargetKind::Prompt, TargetKind::Resource];
        kinds
            .into_iter()
            .filter_map(|t| self.globs_of(t))
            .find(|(_, globs)| globs.count > 0)
            .map(|(list, _)| list)
    }
}

struct CompiledRole {
    allow: RolePatterns,
    deny: RolePatterns,
    /// Itself and all that it inherits from, sorted.
    inherited: Vec<usize>,
    admin: bool,
}

pub(super) struct Roles {
    all: Vec<CompiledRole>,
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
            let line = with_inherited(index, &above)
                .ok_or_else(|| format!("the role `{}` inherits from itself", role.name))?;
            all.push(CompiledRole {
                allow: RolePatterns::new(&role.allow).map_err(at("allow"))?,
                deny: RolePatterns::new(&role.deny).map_err(at("deny"))?,
                inherited: line,
                admin: role.admin,
            });
        }
        Ok(Self { all, named })
    }

    /// The effective roles of a caller with these, sorted and unique. Unknown names have no effect.
    pub(super) fn resolve(&self, names: &[String]) -> Vec<usize> {
        let known = names.iter().filter_map(|name| self.named.get(name));
        let mut line: Vec<usize> = known.flat_map(|index| &self.all[*index].inherited).copied().collect();
        line.sort_unstable();
        line.dedup();
        line
    }

    /// Whether any role has patterns over resources.
    pub(super) fn name_resources(&self) -> bool {
        let speaks = |side: &RolePatterns| side.resources.count > 0;
        self.all.iter().any(|role| speaks(&role.allow) || speaks(&role.deny))
    }

    pub(super) fn is_admin(&self, names: &[String]) -> bool {
        names.iter().filter_map(|name| self.named.get(name)).any(|index| self.all[*index].admin)
    }

    /// Why a method does not pass the gate.
    pub(super) fn denies_method(&self, roles: &[usize], method: &str) -> Option<DecisionReason> {
        for &role in roles {
            if let Some(glob) = self.all[role].deny.methods.first(method) {
                return Some(DecisionReason::Role {
                    role,
                    effect: Effect::Deny,
                    list: RoleList::Methods,
                    glob,
                });
            }
        }
        let mut lists =
            roles.iter().map(|role| &self.all[*role].allow.methods).filter(|m| m.count > 0).peekable();
        let always = matches!(method, "" | "initialize" | "ping" | "server/discover")
            || method.starts_with("notifications/");
        let barred = lists.peek().is_some() && !always && !lists.any(|globs| globs.first(method).is_some());
        barred.then_some(DecisionReason::Unlisted)
    }

    /// The decision of the roles for a target; `None` if no list matches. A whole server is allowed if a part
    /// of it may be.
    pub(super) fn decide(
        &self,
        roles: &[usize],
        target: &CallTarget<'_>,
    ) -> Option<(Effect, DecisionReason)> {
        let side = |effect: Effect| {
            roles.iter().find_map(|&role| {
                let compiled = &self.all[role];
                let side = if effect == Effect::Deny { &compiled.deny } else { &compiled.allow };
                let (list, glob) = side.first(target).or_else(|| {
                    let part = effect == Effect::Allow && target.kind == TargetKind::Server;
                    if part { Some((side.any()?, 0)) } else { None }
                })?;
                Some((effect, DecisionReason::Role { role, effect, list, glob }))
            })
        };
        side(Effect::Deny).or_else(|| side(Effect::Allow))
    }
}

/// A role and all roles that it inherits; `None` if it inherits itself.
fn with_inherited(start: usize, above: &[Vec<usize>]) -> Option<Vec<usize>> {
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
pub(super) struct ScopeRule {
    lists: RolePatterns,
    has_targets: bool,
    pub require: Vec<String>,
}

impl ScopeRule {
    pub(super) fn new(need: &ScopeNeed) -> Result<Self, String> {
        let lists = RolePatterns::new(&need.lists).map_err(|error| format!("scopes, {error}"))?;
        let has_targets = lists.any().is_some();
        if !has_targets && lists.methods.count == 0 && lists.servers.count == 0 {
            return Err("scopes that are needed for nothing: no list has a pattern".into());
        }
        Ok(Self { lists, has_targets, require: need.require.clone() })
    }

    pub(super) fn name_resources(&self) -> bool {
        self.lists.resources.count > 0
    }

    pub(super) fn matches(&self, method: &str, target: Option<&CallTarget<'_>>) -> bool {
        let matching = || {
            let (_, globs) = self.lists.globs_of(target?.kind)?;
            globs.first(target?.name)
        };
        (!self.has_targets || matching().is_some())
            && (self.lists.methods.count == 0 || self.lists.methods.first(method).is_some())
            && (self.lists.servers.count == 0
                || target.is_some_and(|a| self.lists.servers.first(a.server).is_some()))
    }
}
