//! Patterns that match no server: most often after a rename or by a typo.
//!
//! The tools of a server are not known here, only the prefix of their qualified names. A pattern is reported
//! if it matches no name with any prefix. A server without a prefix may have any name.

use super::{Config, GlobList, Pattern};

impl Config {
    /// One sentence for each such pattern.
    pub fn unmatched_patterns(&self) -> Vec<String> {
        if self.servers.is_empty() {
            return Vec::new();
        }
        let mut reported = Vec::new();
        for (name, toolset) in &self.toolsets {
            for pattern in toolset.tools.patterns().iter().filter(|pattern| !self.may_match(pattern)) {
                reported.push(format!(
                    "toolsets.{name}.tools: no server's tools match `{pattern}`{}",
                    self.known_prefixes()
                ));
            }
        }
        let mut check = |path: String, patterns: &[Pattern]| {
            for pattern in patterns.iter().filter(|pattern| !self.may_match(&pattern.text)) {
                let Pattern { text, line } = pattern;
                reported.push(format!(
                    "{path} (line {line}): no server's tools or prompts match `{text}`{}",
                    self.known_prefixes()
                ));
            }
        };
        let rbac = self.rbac.iter();
        for (name, role) in rbac.clone().flat_map(|rbac| &rbac.roles) {
            for (word, lists) in [("allow", &role.allow), ("deny", &role.deny)] {
                check(format!("rbac.roles.{name}.{word}.tools"), &lists.tools);
                check(format!("rbac.roles.{name}.{word}.prompts"), &lists.prompts);
            }
        }
        for (index, need) in rbac.clone().flat_map(|rbac| &rbac.scopes).enumerate() {
            check(format!("rbac.scopes[{index}].tools"), &need.matches.tools);
            check(format!("rbac.scopes[{index}].prompts"), &need.matches.prompts);
        }
        for rule in self.rate_limits.iter().flat_map(|limits| &limits.rules) {
            check(format!("rate_limits rule `{}`, match.tools", rule.name), &rule.match_.tools);
            check(format!("rate_limits rule `{}`, match.prompts", rule.name), &rule.match_.prompts);
        }
        let mut check = |path: String, patterns: &[Pattern]| {
            for Pattern { text, line } in patterns {
                if GlobList::of(text)
                    .is_some_and(|globs| !self.servers.keys().any(|name| globs.is_match(name)))
                {
                    reported.push(format!("{path} (line {line}): no enabled server matches `{text}`"));
                }
            }
        };
        for (name, role) in rbac.clone().flat_map(|rbac| &rbac.roles) {
            check(format!("rbac.roles.{name}.allow.servers"), &role.allow.servers);
            check(format!("rbac.roles.{name}.deny.servers"), &role.deny.servers);
        }
        for (index, need) in rbac.flat_map(|rbac| &rbac.scopes).enumerate() {
            check(format!("rbac.scopes[{index}].servers"), &need.matches.servers);
        }
        for rule in self.rate_limits.iter().flat_map(|limits| &limits.rules) {
            check(format!("rate_limits rule `{}`, match.servers", rule.name), &rule.match_.servers);
        }
        reported
    }

    fn may_match(&self, pattern: &str) -> bool {
        let literal = &pattern[..pattern.find(['*', '?', '[', '{', '\\']).unwrap_or(pattern.len())];
        let whole = literal.len() == pattern.len();
        self.servers.values().any(|server| {
            let begin = format!("{}__", server.prefix);
            server.prefix.is_empty() || literal.starts_with(&begin) || !whole && begin.starts_with(literal)
        })
    }

    fn known_prefixes(&self) -> String {
        let begin: Vec<String> =
            self.servers.values().take(8).map(|server| format!("`{}__`", server.prefix)).collect();
        format!("; their names begin with {}", begin.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn a_pattern_that_matches_no_server_is_reported() {
        let text = "mcpServers: {files: {builtin: demo}, web: {builtin: demo, prefix: search}}\n\
                    toolsets: {a: {tools: [\"files__*\", \"web__x\", \"*\", \"{web,files}__a\", files]}}\n\
                    rbac:\n  roles:\n    r: {allow: {tools: [\"fi*\", \"file_*\", \"search__[ab]\"], servers: [\"f*\", \"g*\"]},\n        \
                    deny: {prompts: [\"fles__*\"]}}\n\
                    rate_limits: {rules: [{name: n, key: [], limit: 1/1s, match: {tools: [\"web__*\"], servers: [\"w?b\"]}}]}\n";
        let reported =
            parse("c", text, &|_| None).unwrap_or_else(|errors| panic!("{errors}")).unmatched_patterns();
        let begin = "; their names begin with `files__`, `search__`";
        assert_eq!(
            reported,
            [
                format!("toolsets.a.tools: no server's tools match `web__x`{begin}"),
                format!("toolsets.a.tools: no server's tools match `files`{begin}"),
                format!(
                    "rbac.roles.r.allow.tools (line 5): no server's tools or prompts match `file_*`{begin}"
                ),
                format!(
                    "rbac.roles.r.deny.prompts (line 6): no server's tools or prompts match `fles__*`{begin}"
                ),
                format!(
                    "rate_limits rule `n`, match.tools (line 7): no server's tools or prompts match `web__*`{begin}"
                ),
                "rbac.roles.r.allow.servers (line 5): no enabled server matches `g*`".to_owned(),
            ]
        );
        let open = "mcpServers: {files: {builtin: demo, prefix: \"\"}}\ntoolsets: {a: {tools: [x]}}\n";
        assert!(parse("c", open, &|_| None).expect("good").unmatched_patterns().is_empty());
    }
}
