//! A TOML file in the making: sections in order, a line for each key.
use std::fmt::Write as _;

use toml::Value;

/// Sections in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Document {
    sections: Vec<(String, Vec<(String, Value)>)>,
}

impl Document {
    /// Sets a key of a section and names it, `section.key`.
    pub(super) fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) -> String {
        let value = value.into();
        let at = match self.sections.iter().position(|(name, _)| name == section) {
            Some(at) => at,
            None => {
                self.sections.push((section.to_owned(), Vec::new()));
                self.sections.len() - 1
            }
        };
        if let Some((_, keys)) = self.sections.get_mut(at) {
            keys.retain(|(other, _)| other != key);
            keys.push((key.to_owned(), value));
        }
        format!("{section}.{key}")
    }

    /// The file, below this comment.
    pub(super) fn render(&self, comment: &str) -> String {
        let mut text = String::new();
        for line in comment.lines() {
            let _ = writeln!(text, "# {line}");
        }
        for (name, keys) in &self.sections {
            let _ = writeln!(text, "\n[{name}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_what_is_read() {
        let mut document = Document::default();
        let odd = "a \"b\" \\ \u{7f}\n'c'";
        assert_eq!(document.set("one", "text", odd), "one.text");
        document.set("two", "number", 5);
        document.set("one", "list", vec![Value::from("x"), Value::from("y")]);
        document.set("two", "number", 6);
        let text = document.render("two\nlines");
        assert!(text.starts_with("# two\n# lines\n\n[one]\n"), "{text}");
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(read["one"]["text"].as_str(), Some(odd));
        assert_eq!((read["two"]["number"].as_integer(), read["one"]["list"].as_array().unwrap().len()), (Some(6), 2));
    }
}
