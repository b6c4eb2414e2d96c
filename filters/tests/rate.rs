//! What limits let through: a table of scripts, played on a manual clock.

mod rate_world;

use filters::rate_limit::KeyPart::{ApiKey, Ip, Method, Role, Server, Tenant, Tool, User};
use filters::rate_limit::{Match, RateRule};
use rate_world::script::play;
use rate_world::*;

/// A description, the rules (those after the first for `reload`), and the script.
type Case = (&'static str, Vec<Vec<RateRule>>, &'static str);

fn matching(mut rule: RateRule, matches: Match) -> RateRule {
    rule.matches = matches;
    rule
}

fn named(name: &str, mut rule: RateRule) -> RateRule {
    rule.name = name.into();
    rule
}

fn tools(patterns: &[&str]) -> Match {
    Match { tools: globs(patterns), ..Match::default() }
}

fn rates() -> Vec<Case> {
    vec![
        ("a burst passes at once and no more", vec![vec![rate(&[User], 10, SEC, 3)]], "a*3 !a=100 !a=100"),
        (
            "one comes back at each pace",
            vec![vec![rate(&[User], 10, SEC, 3)]],
            "a*3 +100 a !a=100 +100 a !a=100",
        ),
        (
            "waiting exactly as long as was said is enough, a millisecond less is not",
            vec![vec![rate(&[User], 7, SEC, 1)]],
            "a !a=143 +142 !a=1 +1 a +143 a",
        ),
        (
            "a wait is told to the rest of a pace",
            vec![vec![rate(&[User], 10, SEC, 1)]],
            "a +30 !a=70 +69 !a=1 +1 a",
        ),
        (
            "a part of a millisecond is a whole one",
            vec![vec![rate(&[User], 10, SEC, 1)]],
            "a +99500us !a=1 +1 a",
        ),
        (
            "an idle time fills the burst and not more",
            vec![vec![rate(&[User], 10, SEC, 3)]],
            "a*3 +1d a*3 !a=100",
        ),
        (
            "half an idle time fills half the burst",
            vec![vec![rate(&[User], 10, SEC, 4)]],
            "a*4 +200 a*2 !a=100",
        ),
        ("a slow rate makes long waits", vec![vec![rate(&[User], 2, HOUR, 2)]], "a*2 !a=1800000 +30m a !a"),
        ("a refused call costs nothing", vec![vec![rate(&[User], 10, SEC, 1)]], "a !a*50=100 +100 a"),
        ("a burst of one is an even pace", vec![vec![rate(&[User], 1, SEC, 1)]], "a !a=1000 +1000 a !a=1000"),
        ("a burst of none lets nothing pass", vec![vec![rate(&[User], 1, SEC, 0)]], "!a +1d !a"),
        ("a count of none lets nothing pass", vec![vec![rate(&[User], 0, SEC, 5)]], "!a +1d !a"),
        (
            "a burst may be larger than the count",
            vec![vec![rate(&[User], 1, SEC, 5)]],
            "a*5 !a=1000 +2000 a*2 !a",
        ),
        (
            "a million a second is kept to",
            vec![vec![rate(&[User], 1_000_000, SEC, 2)]],
            "a*2 !a=1 +1us a !a=1",
        ),
        ("two users have two budgets", vec![vec![rate(&[User], 1, SEC, 1)]], "a b !a !b +1000 a b"),
        ("users of two tenants are two", vec![vec![rate(&[User], 1, SEC, 1)]], "a@x a@y a !a@x !a@y !a"),
        ("users of two issuers are two", vec![vec![rate(&[User], 1, SEC, 1)]], "a&i a&j !a&i !a&j"),
        ("a user by key and one by token are two", vec![vec![rate(&[User], 1, SEC, 1)]], "a a$k !a !a$k"),
        ("two keys of a user are one user", vec![vec![rate(&[User], 1, SEC, 1)]], "a$k !a$l"),
        (
            "a session or a token buys no new budget",
            vec![vec![rate(&[User], 2, SEC, 2)]],
            "a;s1 a;s2 !a;s3=500 !a",
        ),
        ("roles make no other user", vec![vec![rate(&[User], 1, SEC, 1)]], "a#dev !a#ops"),
        ("texts do not run into each other", vec![vec![rate(&[Tenant, User], 1, SEC, 1)]], "bc@a c@ab !bc@a"),
    ]
}

fn keys() -> Vec<Case> {
    let dev = Match { roles: globs(&["d*"]), ..Match::default() };
    vec![
        ("a tenant is shared by its users", vec![vec![rate(&[Tenant], 2, SEC, 2)]], "a@x b@x !c@x a@y"),
        ("those of no tenant are one tenant", vec![vec![rate(&[Tenant], 2, SEC, 2)]], "a b !c a@x"),
        ("a key has its own budget", vec![vec![rate(&[ApiKey], 1, SEC, 1)]], "a$k a$l !b$k b !c"),
        (
            "each tool is counted apart",
            vec![vec![rate(&[User, Tool], 1, SEC, 1)]],
            "a>f__x a>f__y !a>f__x b>f__x",
        ),
        (
            "what is no tool has an empty one",
            vec![vec![rate(&[User, Tool], 1, SEC, 1)]],
            "a !a?file:///x !a|p a>f__x",
        ),
        (
            "a server is all of its tools",
            vec![vec![rate(&[Server], 2, SEC, 2)]],
            "a>f__x b>f__y !c>f__z a>g__x",
        ),
        ("methods are counted apart", vec![vec![rate(&[User, Method], 1, SEC, 1)]], "a a^ping !a !a^ping"),
        ("a response counts too", vec![vec![rate(&[User], 2, SEC, 2)]], "a^ a^ !a^ !a"),
        ("a notification counts too", vec![vec![rate(&[User], 1, SEC, 1)]], "a^notifications/progress !a"),
        ("a GET does not count for a user", vec![vec![rate(&[User], 1, SEC, 1)]], "get:a*5 a !a get:a*5"),
        (
            "a GET counts for an address",
            vec![vec![rate(&[Ip], 2, SEC, 2)]],
            "get:a%10.0.0.1 a%10.0.0.1 !get:a%10.0.0.1",
        ),
        (
            "addresses are counted apart",
            vec![vec![rate(&[Ip], 1, SEC, 1)]],
            "a%10.0.0.1 a%10.0.0.2 !b%10.0.0.1",
        ),
        (
            "IPv6 is counted by its /64",
            vec![vec![rate(&[Ip], 1, SEC, 1)]],
            "a%2001:db8:1:2::1 !a%2001:db8:1:2:ffff:: a%2001:db8:1:3::1",
        ),
        (
            "IPv4 within IPv6 is IPv4",
            vec![vec![rate(&[Ip], 1, SEC, 1)]],
            "a%10.0.0.1 !a%::ffff:10.0.0.1 a%::",
        ),
        ("callers inside have no address to limit", vec![vec![rate(&[Ip], 1, SEC, 1)]], "in:a*9 a !b in:a"),
        (
            "a user at an address is both",
            vec![vec![rate(&[User, Ip], 1, SEC, 1)]],
            "a%1.1.1.1 a%1.1.1.2 b%1.1.1.1 !a%1.1.1.1",
        ),
        ("no key is one budget for all", vec![vec![rate(&[], 2, SEC, 2)]], "a b@x !c%10.0.0.1 !get:c"),
        (
            "a role is shared by all who have it",
            vec![vec![rate(&[Role], 2, SEC, 2)]],
            "a#dev b#dev !c#dev c#ops",
        ),
        (
            "a call takes from each of its roles",
            vec![vec![rate(&[Role], 2, SEC, 2)]],
            "a#dev,ops b#dev !c#dev d#ops !d#ops",
        ),
        (
            "a role that is used up refuses and the others keep theirs",
            vec![vec![rate(&[Role], 2, SEC, 2)]],
            "a#dev*2 !a#dev,ops*5 !a#ops,dev b#ops*2 !b#ops",
        ),
        ("no role is one role", vec![vec![rate(&[Role], 1, SEC, 1)]], "a !b c#dev"),
        (
            "only roles that match have a budget",
            vec![vec![matching(rate(&[Role], 1, SEC, 1), dev.clone())]],
            "a#dev,ops b#ops*5 !c#dev,qa c#dba,ops",
        ),
        ("a user in each role", vec![vec![rate(&[User, Role], 1, SEC, 1)]], "a#dev b#dev !a#dev a#ops"),
    ]
}

fn matches() -> Vec<Case> {
    let servers = Match { servers: globs(&["f"]), ..Match::default() };
    let methods = Match { methods: globs(&["tools/*"]), ..Match::default() };
    let both = Match { tools: globs(&["f__*"]), methods: globs(&["tools/call"]), ..Match::default() };
    let either = Match { tools: globs(&["g__*"]), servers: globs(&["f"]), ..Match::default() };
    let roles = Match { roles: globs(&["guest"]), ..Match::default() };
    let resources = Match { resources: globs(&["file:///*"]), ..Match::default() };
    let prompts = Match { prompts: globs(&["files__p*"]), ..Match::default() };
    let one = |matches| vec![vec![matching(rate(&[User], 1, SEC, 1), matches)]];
    vec![
        ("only tools that match count", one(tools(&["s__*"])), "a>s__x !a>s__y a>f__x*9 a*9 a?s__x*9"),
        ("an odd pattern works too", one(tools(&["{s,t}__?"])), "a>s__x !a>t__y a>s__xy*9"),
        ("a server matches all that it has", one(servers), "a>f__x !a>f__y a>g__x*9 a*9"),
        ("methods match", one(methods), "a !a^tools/list a^ping*9 a^*9"),
        ("tools and methods must both match", one(both), "a>f__x !a>f__x a>f__x^completion/complete*9"),
        ("tools or servers may match", one(either), "a>f__x !a>g__x a>h__x*9"),
        ("roles match", one(roles), "a#guest,dev !a#guest a#dev*9 a*9"),
        ("resources match by URI", one(resources), "a?file:///x !a?file:///y a?http://x*9 a>file:///x*9"),
        ("prompts match", one(prompts), "a|files__p1 !a|files__p2 a|files__q*9 a>files__p1*9"),
        (
            "an address rule with a match waits for the message",
            vec![vec![matching(rate(&[Ip], 1, SEC, 1), tools(&["s__*"]))]],
            "get:a%1.1.1.1*9 a%1.1.1.1>s__x !b%1.1.1.1>s__x a%1.1.1.1*9",
        ),
    ]
}

fn quotas() -> Vec<Case> {
    vec![
        // 13:14:15: 45 s to the minute, 45 min 45 s to the hour, 10 h 45 min 45 s to midnight.
        (
            "a quota ends with its window",
            vec![vec![quota(&[User], 2, MIN)]],
            "a*2 !a=45000 +44999 !a=1 +1 a*2 !a=60000",
        ),
        ("an hour ends at the hour", vec![vec![quota(&[User], 1, HOUR)]], "a !a=2745000 +2745000 a"),
        (
            "a day ends at midnight UTC",
            vec![vec![quota(&[Tenant], 1, DAY)]],
            "a@x !b@x=38745000 +38745000 a@x",
        ),
        (
            "a window that begins late is no longer",
            vec![vec![quota(&[User], 1, MIN)]],
            "+44000 a !a=1000 +1000 a !a=60000",
        ),
        ("what is left over is lost", vec![vec![quota(&[User], 2, MIN)]], "a +45000 a*2 !a +1d a*2 !a"),
        ("two users have two quotas", vec![vec![quota(&[User], 1, MIN)]], "a b !a !b"),
        (
            "a clock set back gives no second quota",
            vec![vec![quota(&[User], 1, MIN)]],
            "a back:1h !a=45000 +45000 a",
        ),
        ("a quota of none lets nothing pass", vec![vec![quota(&[User], 0, MIN)]], "!a +1d !a"),
    ]
}

fn slots() -> Vec<Case> {
    let two = || vec![vec![concurrent(&[User], 2)]];
    vec![
        ("slots are free again when the call ends", two(), "hold:a*2 !a=1000 drop a hold:a !a drop*2 a"),
        ("time frees no slot", two(), "hold:a*2 +1d !a drop a"),
        ("calls that have ended hold nothing", two(), "a*9"),
        ("slots are counted apart", two(), "hold:a*2 hold:b !a b hold:b !b drop*2 hold:a*2 !a !b"),
        ("a key of none counts all", vec![vec![concurrent(&[], 1)]], "hold:a !b drop b"),
        (
            "answers and notifications take no slot and need none",
            two(),
            "hold:a*2 a^*9 a^notifications/progress*9 !a drop hold:a^*9 hold:a !a",
        ),
        (
            "slots by address are taken by messages only",
            vec![vec![concurrent(&[Ip], 1)]],
            "get:a%1.1.1.1 hold:a%1.1.1.1 get:a%1.1.1.1 !b%1.1.1.1",
        ),
        (
            "slots of roles",
            vec![vec![concurrent(&[Role], 1)]],
            "hold:a#x,y !b#x !b#y b#z drop hold:b#x hold:b#y",
        ),
    ]
}

fn several() -> Vec<Case> {
    let user = || named("user", rate(&[User], 10, SEC, 5));
    let tool = || named("tool", rate(&[User, Tool], 1, SEC, 1));
    vec![
        (
            "what one rule refuses costs no other",
            vec![vec![user(), tool()]],
            "a>f__x !a>f__x*20 a>f__y a>f__z a>f__u a>f__v !a>f__w=100",
        ),
        (
            "in whatever order they stand",
            vec![vec![tool(), user()]],
            "a>f__x !a>f__x*20 a>f__y a>f__z a>f__u a>f__v !a>f__w=100",
        ),
        (
            "the longest wait is told",
            vec![vec![rate(&[User], 1, SEC, 1), named("l", rate(&[User], 1, MIN, 1))]],
            "a !a=60000",
        ),
        (
            "a quota is given back",
            vec![vec![quota(&[User], 3, MIN), tool()]],
            "a>f__x !a>f__x*20 a>f__y a>f__z !a>f__u=45000",
        ),
        (
            "slots are given back",
            vec![vec![concurrent(&[User], 1), tool()]],
            "a>f__x !a>f__x*20 hold:a>f__y !a>f__z=1000",
        ),
        (
            "a full store takes no rate",
            vec![vec![user(), concurrent(&[User], 1)]],
            "hold:a !a*20=1000 drop a*4 !a=100",
        ),
        (
            "the head is judged before the message",
            vec![vec![named("ip", rate(&[Ip], 1, SEC, 1)), user()]],
            "a%1.1.1.1 !a%1.1.1.1*20=1000 a%1.1.1.2 a%1.1.1.3 a%1.1.1.4 a%1.1.1.5 !a%1.1.1.6=100",
        ),
        (
            "two rules of one name and two kinds are two",
            vec![vec![named("x", concurrent(&[User], 1)), named("x", rate(&[User], 2, SEC, 2))]],
            "hold:a !a drop a !a=500",
        ),
    ]
}

fn reloads() -> Vec<Case> {
    let was = |count, burst| vec![rate(&[User], count, SEC, burst)];
    vec![
        ("a reload gives no new burst", vec![was(10, 3), was(10, 3)], "a*3 reload !a=100"),
        ("a larger burst is there at once", vec![was(10, 3), was(10, 5)], "a*3 reload a*2 !a=100"),
        (
            "a smaller burst makes nobody wait for the old one",
            vec![was(10, 10), was(10, 2)],
            "a*10 reload !a=100 +100 a !a",
        ),
        ("a slower rate begins now", vec![was(10, 3), was(1, 1)], "a*3 reload !a"),
        ("a faster rate begins now", vec![was(1, 1), was(10, 1)], "a reload !a=100 +100 a"),
        (
            "a new name is a new limit",
            vec![was(1, 1), vec![named("other", rate(&[User], 1, SEC, 1))]],
            "a reload a !a",
        ),
        (
            "a rule that comes back has its counts",
            vec![was(1, 1), vec![], was(1, 1)],
            "a reload a*9 reload !a",
        ),
        (
            "a larger quota counts what was used",
            vec![vec![quota(&[User], 2, MIN)], vec![quota(&[User], 3, MIN)]],
            "a*2 !a reload a !a",
        ),
        (
            "a longer window counts what was used",
            vec![vec![quota(&[User], 2, MIN)], vec![quota(&[User], 2, HOUR)]],
            "a*2 reload !a=2745000",
        ),
        (
            "a shorter window counts it but once",
            vec![vec![quota(&[User], 2, HOUR)], vec![quota(&[User], 2, MIN)]],
            "a*2 reload !a=45000 +45000 a*2 !a=60000",
        ),
        (
            "slots outlive a reload",
            vec![vec![concurrent(&[User], 2)], vec![concurrent(&[User], 1)]],
            "hold:a reload !a drop a hold:a !a",
        ),
        ("no limits let all pass", vec![vec![]], "a*99 get:a*99"),
    ]
}

#[test]
fn every_script_plays_as_it_is_written() {
    let cases: Vec<Case> =
        [rates(), keys(), matches(), quotas(), slots(), several(), reloads()].into_iter().flatten().collect();
    assert!(cases.len() >= 80, "only {}", cases.len());
    for (sentence, rules, script) in cases {
        play(sentence, rules, script);
    }
}
