//! Words of a command line as a shell splits them: quotes, backslashes, comments, variables, and where a command ends.
//!
//! A word that needs something not known here, a variable of elsewhere or the output of a command, says so; nothing is
//! run and nothing is guessed.
use std::collections::BTreeMap;

/// A word, or what ends a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word.
    Word(Word),
    /// A line's end, `;`, `|`, `&` and the like.
    End,
}

/// One word.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Word {
    /// The text after quotes and variables.
    pub(super) text: String,
    /// What in it is not known here, such as `$NAME`.
    pub(super) unknown: Option<String>,
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A word may be a password.
        f.debug_struct("Word").field("text", &"[not shown]").field("unknown", &self.unknown).finish()
    }
}

/// The text ends inside a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: a quote is not closed")]
pub(super) struct OpenQuote {
    /// The line it was opened on, from 1.
    pub(super) line: usize,
}

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// A shell's.
    Shell,
    /// systemd's: quotes and variables, but no operators and no comments; `$$` is a dollar.
    Unit,
}

/// Variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// Splits a text. Assignments that stand alone (`NAME=value`, with or without `export`) are variables from then on.
///
/// # Errors
/// [`OpenQuote`] when a quote is not closed.
pub(super) fn split(text: &str, syntax: Syntax, variables: &mut Variables) -> Result<Vec<Token>, OpenQuote> {
    let mut splitter = Splitter { rest: text, syntax, line: 1, variables, tokens: Vec::new(), word: None, begun: 0 };
    splitter.run()?;
    Ok(splitter.tokens)
}

/// Is this the name of a variable?
pub(super) fn is_name(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct Splitter<'a> {
    rest: &'a str,
    syntax: Syntax,
    line: usize,
    variables: &'a mut Variables,
    tokens: Vec<Token>,
    word: Option<Word>,
    /// Where the present command begins among the tokens.
    begun: usize,
}

impl Splitter<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().text.push(c);
    }

    fn run(&mut self) -> Result<(), OpenQuote> {
        while let Some(c) = self.next() {
            let is_shell = self.syntax == Syntax::Shell;
            match c {
                ' ' | '\t' | '\r' => self.end_word(),
                '\n' => self.end_command(),
                ';' | '|' | '&' | '(' | ')' if is_shell => self.end_command(),
                '>' | '<' if is_shell => self.redirection(),
                '#' if is_shell && self.word.is_none() => {
                    while !self.rest.is_empty() && !self.rest.starts_with('\n') {
                        self.next();
                    }
                }
                '\\' => match self.next() {
                    None | Some('\n') => {}
                    Some(c) => self.push(c),
                },
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted()?,
                '$' | '`' => self.dollar(c),
                c => self.push(c),
            }
        }
        self.end_command();
        Ok(())
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take() {
            self.tokens.push(Token::Word(word));
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        let command = self.tokens.get(self.begun..).unwrap_or_default();
        let assignments: Option<Vec<_>> = command.iter().map(assignment).collect();
        let exports = matches!(command.first(), Some(Token::Word(word)) if word.text == "export");
        let made = match assignments {
            Some(made) => made,
            None if exports => command.iter().skip(1).filter_map(assignment).collect(),
            None => Vec::new(),
        };
        self.variables.extend(made);
        self.tokens.push(Token::End);
        self.begun = self.tokens.len();
    }

    /// `>file`, `2>&1` and their like say nothing to the program.
    fn redirection(&mut self) {
        let is_number = |word: &Word| word.text.bytes().all(|byte| byte.is_ascii_digit());
        match self.word.take() {
            Some(word) if !is_number(&word) => self.tokens.push(Token::Word(word)),
            _ => {}
        }
        self.rest = self.rest.trim_start_matches(['>', '<', '&', '|']).trim_start_matches([' ', '\t']);
        let ends = |c: char| c.is_ascii_whitespace() || ";|&<>()".contains(c);
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        self.rest = self.rest.get(end..).unwrap_or_default();
    }

    fn single_quoted(&mut self) -> Result<(), OpenQuote> {
        let line = self.line;
        self.word.get_or_insert_default();
        loop {
            match self.next().ok_or(OpenQuote { line })? {
                '\'' => return Ok(()),
                c => self.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<(), OpenQuote> {
        let line = self.line;
        self.word.get_or_insert_default();
        loop {
            match self.next().ok_or(OpenQuote { line })? {
                '"' => return Ok(()),
                '\\' => match self.next().ok_or(OpenQuote { line })? {
                    '\n' => {}
                    c @ ('"' | '\\' | '$' | '`') => self.push(c),
                    c => {
                        self.push('\\');
                        self.push(c);
                    }
                },
                c @ ('$' | '`') => self.dollar(c),
                c => self.push(c),
            }
        }
    }

    /// After `$` or a back quote: a variable, or something only a shell could tell.
    fn dollar(&mut self, opened: char) {
        let (name, length) = match self.rest.strip_prefix('{') {
            Some(braced) => {
                let end = braced.find('}').unwrap_or(braced.len());
                (braced.get(..end).unwrap_or_default(), end + 2)
            }
            None => {
                let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
                (self.rest.get(..end).unwrap_or_default(), end)
            }
        };
        let name = name.to_owned();
        let substituted = opened == '`' || self.rest.starts_with('(');
        if opened == '$' && !substituted && self.rest.starts_with('$') && self.syntax == Syntax::Unit {
            self.next();
            self.push('$');
            return;
        }
        if substituted {
            self.skip_command(opened);
            let word = self.word.get_or_insert_default();
            word.unknown.get_or_insert("the output of a command".to_owned());
            return;
        }
        let word = self.word.get_or_insert_default();
        if !is_name(&name) {
            word.unknown.get_or_insert("a $ whose meaning is the shell's".to_owned());
            return;
        }
        match self.variables.get(&name) {
            Some(value) => word.text.push_str(value),
            None => {
                word.unknown.get_or_insert(format!("${name}"));
            }
        }
        self.rest = self.rest.get(length..).unwrap_or_default();
    }
}

impl Splitter<'_> {
    /// To the end of a command whose output would be a part of the word.
    fn skip_command(&mut self, opened: char) {
        let mut depth = 0usize;
        while let Some(c) = self.next() {
            match c {
                '`' if opened == '`' => return,
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if opened == '$' && depth == 0 {
                return;
            }
        }
    }
}

/// Name and value, when the token is nothing else and all of it is known.
pub(super) fn assignment(token: &Token) -> Option<(String, String)> {
    let Token::Word(Word { text, unknown: None }) = token else { return None };
    let (name, value) = text.split_once('=')?;
    is_name(name).then(|| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(line: &str) -> Vec<String> {
        let tokens = split(line, Syntax::Shell, &mut Variables::new()).unwrap();
        tokens.into_iter().filter_map(|t| if let Token::Word(word) = t { Some(word.text) } else { None }).collect()
    }

    #[test]
    fn words_end_where_the_shell_ends_them() {
        assert_eq!(
            texts("run -a 'b c' \"d \\\"e\\\"\" f\\ g -h=\\\ni # not this"),
            ["run", "-a", "b c", "d \"e\"", "f g", "-h=i"]
        );
        assert_eq!(texts("a >log 2>&1 -b"), ["a", "-b"]);
        assert_eq!(texts("a '' b"), ["a", "", "b"]);
    }

    #[test]
    fn variables_of_the_same_text_are_known_and_others_are_named() {
        let mut variables = Variables::new();
        let tokens =
            split("export A=1 B='x y'\nC=3\nrun $A \"$B\" ${C}d $D $(id)", Syntax::Shell, &mut variables).unwrap();
        let words: Vec<_> =
            tokens.iter().filter_map(|t| if let Token::Word(word) = t { Some(word) } else { None }).collect();
        let tail: Vec<_> = words.iter().skip(5).map(|word| (word.text.as_str(), word.unknown.as_deref())).collect();
        assert_eq!(
            tail,
            [("1", None), ("x y", None), ("3d", None), ("", Some("$D")), ("", Some("the output of a command"))]
        );
    }

    #[test]
    fn an_open_quote_is_told_with_its_line() {
        assert_eq!(split("a\nb 'c", Syntax::Shell, &mut Variables::new()), Err(OpenQuote { line: 2 }));
    }

    proptest! {
        #[test]
        fn a_quoted_word_comes_back_as_it_was(words in prop::collection::vec("[^\u{0}]{0,12}", 1..6)) {
            let single: Vec<_> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
            prop_assert_eq!(texts(&single.join(" ")), words.clone());
            let escape = |word: &String| {
                let escaped: String = word.chars().flat_map(|c| {
                    let special = matches!(c, '"' | '\\' | '$' | '`');
                    special.then_some('\\').into_iter().chain([c])
                }).collect();
                format!("\"{escaped}\"")
            };
            let double: Vec<_> = words.iter().map(escape).collect();
            prop_assert_eq!(texts(&double.join("\t")), words);
        }

        #[test]
        fn no_text_breaks_the_splitter(text in "\\PC{0,80}|[-a-z'\"\\\\$`{}()<>&|;# \\n=]{0,80}") {
            let _ = split(&text, Syntax::Shell, &mut Variables::new());
            let _ = split(&text, Syntax::Unit, &mut Variables::new());
        }
    }
}
