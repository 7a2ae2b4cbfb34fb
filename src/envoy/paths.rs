//! What Envoy makes of a request's path before it looks for a route.

use super::request::hex;
use super::tree::Tree;
use crate::rules::file::Node;

/// The settings of a connection manager.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paths {
    normalize: bool,
    merge_slashes: bool,
    escaped: Escaped,
}

/// What becomes of `%2f` and `%5c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escaped {
    #[default]
    Keep,
    Reject,
    Redirect,
    Forward,
}

impl Paths {
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let action = tree.text(node, "path_with_escaped_slashes_action");
        Self {
            normalize: tree.is_on(node, "normalize_path"),
            merge_slashes: tree.is_on(node, "merge_slashes"),
            escaped: match action.as_deref() {
                Some("REJECT_REQUEST") => Escaped::Reject,
                Some("UNESCAPE_AND_REDIRECT") => Escaped::Redirect,
                Some("UNESCAPE_AND_FORWARD") => Escaped::Forward,
                Some(_) | None => Escaped::Keep,
            },
        }
    }

    /// The path that the filters see, or what Envoy answers itself.
    pub(super) fn of(self, whole: &str) -> Result<String, String> {
        let whole = whole.split('#').next().unwrap_or_default();
        let (path, query) = whole.split_at(whole.find('?').unwrap_or(whole.len()));
        let mut path = path.to_owned();
        let unescaped = unescape_slashes(&path);
        if unescaped != path {
            match self.escaped {
                Escaped::Keep => {}
                Escaped::Reject => {
                    return Err("the path has an escaped slash: Envoy answers 400".to_owned());
                }
                Escaped::Redirect => {
                    return Err(
                        "the path has an escaped slash: Envoy redirects to the one without"
                            .to_owned(),
                    );
                }
                Escaped::Forward => path = unescaped,
            }
        }
        if self.normalize {
            path = normalized(&path);
        }
        if self.merge_slashes {
            path = merged(&path);
        }
        Ok(path + query)
    }
}

/// The host of an authority in small letters.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|digit| digit.is_ascii_digit()) && !host.ends_with(':') =>
        {
            host
        }
        Some(_) | None => authority,
    }
}

fn unescape_slashes(path: &str) -> String {
    let replace = |path: &str, from: &str, to| path.replace(from, to);
    let path = replace(&replace(path, "%2f", "/"), "%2F", "/");
    replace(&replace(&path, "%5c", "\\"), "%5C", "\\")
}

/// Without dot segments, and with what need not be percent-encoded as it is.
fn normalized(path: &str) -> String {
    let plain = unescape_unreserved(path).replace('\\', "/");
    let segments: Vec<&str> = plain.split('/').skip(1).collect();
    let mut kept: Vec<&str> = Vec::new();
    for (place, segment) in segments.iter().enumerate() {
        let is_last = place + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn unescape_unreserved(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let byte = after.as_bytes().get(..2).and_then(hex);
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                text.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            Some(_) | None => {
                text.push('%');
                rest = after;
            }
        }
    }
    text + rest
}

fn merged(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !text.ends_with('/') {
            text.push(letter);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_slashes_are_taken_out() {
        let paths = Paths {
            normalize: true,
            merge_slashes: true,
            escaped: Escaped::Forward,
        };
        for (from, to) in [
            ("/", "/"),
            ("/a/./b/../c", "/a/c"),
            ("/docs/%2e%2e/compare", "/compare"),
            ("/docs/..%2fcompare", "/compare"),
            ("//a///b/", "/a/b/"),
            ("/a/..", "/"),
            ("/%41%2fb?x=%2f", "/A/b?x=%2f"),
        ] {
            assert_eq!(paths.of(from).as_deref(), Ok(to), "{from}");
        }
    }

    #[test]
    fn ports_are_taken_off() {
        for (from, to) in [
            ("a:80", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(without_port(from), to, "{from}");
        }
    }
}
