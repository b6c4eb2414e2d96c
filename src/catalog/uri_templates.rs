//! Which URI template (RFC 6570) matches a URI.
//!
//! A template that equals the URI comes first: that is how its arguments are completed. Then come those whose
//! pattern matches, the one with the most literal text first, so that one that matches everything comes last.
//! Servers write templates that their own URIs do not quite match, so the longest literal prefix comes after
//! all others.

use super::Target;

/// Longest URI that is matched; the time of that is its length times that of the template.
const MAX_URI: usize = 8 * 1024;

#[derive(Default)]
pub struct UriTemplates(Vec<UriTemplate>);

struct UriTemplate {
    text: String,
    parts: Vec<TemplatePart>,
    target: Target,
}

#[derive(Debug, PartialEq)]
enum TemplatePart {
    Literal(String),
    /// `{x}`: at least one character, and no `/`.
    Segment,
    /// `{+x}`, `{x*}` and all else: anything.
    Any,
}

impl UriTemplates {
    pub fn push(&mut self, text: &str, target: Target) {
        self.0.push(UriTemplate { text: text.to_owned(), parts: parts(text), target });
    }

    /// Sorts them in the order in which they are tried.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| rank(&b.parts).cmp(&rank(&a.parts)).then_with(|| a.text.cmp(&b.text)));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The template that matches a URI, or whose text it is.
    pub fn find(&self, uri: &str) -> Option<&Target> {
        let itself = || self.0.iter().find(|template| template.text == uri);
        let fitting = || self.0.iter().find(|template| fits(&template.parts, uri));
        let begin = |template: &&UriTemplate| {
            beginning(&template.parts).filter(|text| uri.starts_with(text)).map(str::len)
        };
        let near = || self.0.iter().filter_map(|template| Some((begin(&template)?, template)));
        // Of several of one length the first.
        let nearest =
            || near().reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, found)| found);
        itself().or_else(fitting).or_else(nearest).map(|template| &template.target)
    }
}

/// How specific a template is: more literal text before less, then fewer parts that may be anything.
fn rank(parts: &[TemplatePart]) -> (usize, std::cmp::Reverse<usize>) {
    let literal = |part: &TemplatePart| if let TemplatePart::Literal(text) = part { text.len() } else { 0 };
    let any = parts.iter().filter(|part| **part == TemplatePart::Any).count();
    (parts.iter().map(literal).sum(), std::cmp::Reverse(any))
}

fn beginning(parts: &[TemplatePart]) -> Option<&str> {
    match parts.first()? {
        TemplatePart::Literal(text) => Some(text),
        _ => None,
    }
}

fn parts(text: &str) -> Vec<TemplatePart> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let part = match rest.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            Some((expression, behind)) => {
                rest = behind;
                let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '%' | '-' | ',');
                let simple =
                    !expression.is_empty() && !expression.starts_with('.') && expression.chars().all(name);
                if simple { TemplatePart::Segment } else { TemplatePart::Any }
            }
            None => {
                // A brace without a closing one is text.
                let end = rest.match_indices('{').map(|(at, _)| at).find(|at| *at > 0);
                let (literal, behind) = rest.split_at(end.unwrap_or(rest.len()));
                rest = behind;
                TemplatePart::Literal(literal.to_owned())
            }
        };
        parts.push(part);
    }
    parts
}

/// Whether a URI is what a template makes of some values. Takes at most the product of both lengths in steps.
fn fits(parts: &[TemplatePart], uri: &str) -> bool {
    if uri.len() > MAX_URI {
        return false;
    }
    let mut uri = uri.as_bytes();
    let mut parts = parts;
    // Most do not even have the same prefix or suffix.
    if let [TemplatePart::Literal(text), behind @ ..] = parts {
        let Some(rest) = uri.strip_prefix(text.as_bytes()) else { return false };
        (uri, parts) = (rest, behind);
    }
    if let [before @ .., TemplatePart::Literal(text)] = parts {
        let Some(rest) = uri.strip_suffix(text.as_bytes()) else { return false };
        (uri, parts) = (rest, before);
    }
    match parts {
        [] => return uri.is_empty(),
        [TemplatePart::Any] => return true,
        [TemplatePart::Segment] => return !uri.is_empty() && !uri.contains(&b'/'),
        _ => {}
    }
    // The positions in the URI after the parts so far.
    let mut at = vec![false; uri.len() + 1];
    at[0] = true;
    for part in parts {
        let mut next = vec![false; uri.len() + 1];
        let mut open = false;
        for place in 0..=uri.len() {
            match part {
                TemplatePart::Literal(text) => {
                    if at[place] && uri[place..].starts_with(text.as_bytes()) {
                        next[place + text.len()] = true;
                    }
                }
                TemplatePart::Any => {
                    open |= at[place];
                    next[place] = open;
                }
                TemplatePart::Segment => {
                    next[place] = open;
                    open = (open || at[place]) && uri.get(place) != Some(&b'/');
                }
            }
        }
        at = next;
    }
    at[uri.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_fits_what_it_makes_and_nothing_else() {
        for (template, uri, fit) in [
            ("file:///{name}", "file:///a.txt", true),
            ("file:///{name}", "file:///a/b.txt", false),
            ("file:///{name}", "file:///", false),
            ("file:///{+path}", "file:///a/b.txt", true),
            ("file:///{path*}", "file:///a/b.txt", true),
            ("test://template/{id}/data", "test://template/7/data", true),
            ("test://template/{id}/data", "test://template/7/8/data", false),
            ("test://template/{id}/data", "test://template/7/date", false),
            ("{scheme}://{host}/x", "a://b/x", true),
            ("{scheme}://{host}/x", "a://b/c/x", false),
            ("{x}a", "baa", true),
            ("{x}/{y}", "a/b", true),
            ("{x}/{y}", "a/", false),
            ("{+x}b{y}", "a/b/bc", true),
            ("db://{table}{?limit,offset}", "db://t?limit=1&offset=2", true),
            ("db://{table}{?limit,offset}", "db://t", true),
            ("plain://text", "plain://text", true),
            ("plain://text", "plain://text/", false),
            ("odd://{open", "odd://{open", true),
        ] {
            assert_eq!(fits(&parts(template), uri), fit, "{template} {uri}");
        }
        assert!(!fits(&parts("a{+x}"), &"a".repeat(MAX_URI + 1)));
    }

    #[test]
    fn one_that_says_more_comes_first() {
        let mut order = ["{+all}", "s://{x}", "s://{+x}", "s://{x}/long", "s://"];
        order.sort_by_key(|text| std::cmp::Reverse(rank(&parts(text))));
        assert_eq!(order, ["s://{x}/long", "s://{x}", "s://", "s://{+x}", "{+all}"]);
    }

    #[test]
    fn a_template_of_any_letters_is_read() {
        let pieces = ["é", "😀", "。", "\u{80}", "\u{feff}", "a", "/", "{", "}", "{q}", "{+q}"];
        let texts = pieces.iter().flat_map(|a| {
            let pairs = pieces.iter().flat_map(move |b| pieces.map(|c| format!("{a}{b}{c}")));
            pairs.chain([(*a).to_owned()])
        });
        for text in texts {
            let read = parts(&text);
            fits(&read, &text);
            if !text.contains('{') {
                assert_eq!(read, [TemplatePart::Literal(text.clone())]);
                assert!(fits(&read, &text), "{text:?}");
            }
        }
        assert!(fits(&parts("é{q}"), "éa") && !fits(&parts("é{q}"), "é"));
        assert!(fits(&parts("x://{q}é"), "x://aé") && fits(&parts("note://{id}。"), "note://7。"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_template(text in "[{}é😀a/]{0,12}|\\PC{0,12}", uri in "[éa/😀]{0,8}|\\PC{0,8}") {
            let parts = parts(&text);
            rank(&parts);
            if text.contains(['{', '}']) {
                fits(&parts, &uri);
            } else {
                proptest::prop_assert_eq!(fits(&parts, &uri), text == uri);
            }
        }
    }
}
