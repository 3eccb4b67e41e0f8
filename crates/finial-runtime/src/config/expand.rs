//! Environment variables in configuration files.

/// Replaces `$NAME` and `${NAME}` by what `lookup` knows; unknown names become empty and `$$` becomes `$`.
///
/// The rules are those of Go's `os.Expand`, so one-character names such as `$1` are names too.
pub fn expand_env(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let lookup = |name: &str| match name {
        "$" => "$".to_owned(),
        name => lookup(name).unwrap_or_default(),
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(braced) = after.strip_prefix('{') {
            match braced.split_once('}') {
                Some((name, after)) if is_special(name) || is_word(name) => {
                    out.push_str(&lookup(name));
                    rest = after;
                }
                // Bad syntax is eaten, as Go does: "${}" and "${a b}" become nothing.
                Some((_, after)) => rest = after,
                None => rest = braced,
            }
            continue;
        }
        let special: String = after
            .chars()
            .take(1)
            .filter(|c| is_special_char(*c))
            .collect();
        let name = if special.is_empty() {
            let end = after
                .find(|c: char| !(c == '_' || c.is_ascii_alphanumeric()))
                .unwrap_or(after.len());
            after.split_at(end).0
        } else {
            special.as_str()
        };
        if name.is_empty() {
            // A lone dollar stays.
            out.push('$');
        } else {
            out.push_str(&lookup(name));
            rest = after.split_at(name.len()).1;
        }
    }
    out.push_str(rest);
    out
}

fn is_special_char(c: char) -> bool {
    c.is_ascii_digit() || "*#$@!?-".contains(c)
}

fn is_special(name: &str) -> bool {
    name.len() == 1 && name.chars().all(is_special_char)
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && !name.contains('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_as_in_go() {
        let lookup = |name: &str| match name {
            "HOME" => Some("/root".to_owned()),
            "a.b" => Some("dotted".to_owned()),
            "1" => Some("one".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("path = \"$HOME/x\"", "path = \"/root/x\""),
            ("${HOME}x$HOME", "/rootx/root"),
            ("$$HOME", "$HOME"),
            ("${$}", "$"),
            ("[$unset]", "[]"),
            ("${a.b}", "dotted"),
            ("$12", "one2"),
            ("5$ and $", "5$ and $"),
            ("${HOME", "HOME"),
            ("a${}b", "ab"),
        ] {
            assert_eq!(expand_env(text, lookup), expected, "{text}");
        }
    }
}
