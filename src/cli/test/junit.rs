//! What came of tests, as the XML that JUnit writes and most build servers read.

use std::fmt::Write;

use super::Ran;

/// A suite a file, a case a test.
pub(super) fn xml(all: &[Ran]) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for ran in all {
        let path = escaped(&ran.path.display().to_string());
        let (tests, failed) = (ran.tests.len(), ran.failed());
        // Writing to a String cannot fail.
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{path}\" tests=\"{tests}\" failures=\"{failed}\">"
        );
        for (name, differences) in &ran.tests {
            let name = escaped(name);
            let _ = write!(xml, "    <testcase classname=\"{path}\" name=\"{name}\"");
            if differences.is_empty() {
                xml.push_str("/>\n");
                continue;
            }
            let text = escaped(&differences.join("\n"));
            let first = escaped(differences.first().map_or("", String::as_str));
            let _ = writeln!(
                xml,
                ">\n      <failure message=\"{first}\">{text}</failure>\n    </testcase>"
            );
        }
        xml.push_str("  </testsuite>\n");
    }
    xml + "</testsuites>\n"
}

/// A text that may stand in an attribute: what XML 1.0 has no way to say becomes a question mark.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}
