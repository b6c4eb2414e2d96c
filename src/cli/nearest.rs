//! The known name that an unknown one probably means.

/// The nearest of these names, within one or two typos; the beginnings of their parts count as the rest
/// does.
pub fn nearest<'n>(names: impl IntoIterator<Item = &'n str>, name: &str) -> Option<&'n str> {
    let bare = |text: &str| text.replace(['-', '.'], "_").to_ascii_lowercase();
    let wanted = bare(name);
    let far = |known: &str| strsim::damerau_levenshtein(&bare(known), &wanted);
    // Names come from servers: for a long one no distance is computed.
    let names = names.into_iter().filter(|known| known.len() <= 256 && name.len() <= 256);
    let (near, far) = names.map(|known| (known, far(known))).min_by_key(|(known, far)| (*far, *known))?;
    (far <= (near.len().min(name.len()) / 3).min(4)).then_some(near)
}

/// `; did you mean ...?`, or nothing.
pub fn hint<'n>(names: impl IntoIterator<Item = &'n str>, name: &str) -> String {
    nearest(names, name).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_may_have_been_meant() {
        let names = ["demo__echo", "demo__time", "files__read_file"];
        for (name, near) in [
            ("demo__ecko", Some("demo__echo")),
            ("dmo__time", Some("demo__time")),
            ("demo_echo", Some("demo__echo")),
            ("files__readfile", Some("files__read_file")),
            ("Demo--Echo", Some("demo__echo")),
            ("search__web", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(names, name), near, "{name}");
        }
        assert_eq!(nearest([], "x"), None);
        assert_eq!(hint(names, "demo__tme"), "; did you mean `demo__time`?");
    }
}
