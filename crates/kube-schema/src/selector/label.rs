//! Label selectors: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`, `a>1`, joined by commas.

use serde_json::{Map, Value};

use super::{SelectorError, check_length};
use crate::rules::names;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of a set.
    In,
    /// The label is missing or its value is not in a set.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
    /// The value is a number greater than another.
    GreaterThan,
    /// The value is a number less than another.
    LessThan,
}

/// One condition; all of a selector's must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// Values compared with.
    pub values: Vec<String>,
}

/// A parsed label selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the text of a `labelSelector` parameter; empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        let tokens = lex(text);
        let mut parser = Parser { tokens: &tokens };
        parser
            .selector()
            .map(|requirements| LabelSelector { requirements })
            .map_err(SelectorError)
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels given as a JSON object satisfy all conditions.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// Whether an object's `metadata.labels` satisfy all conditions.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(crate::meta::labels(object))
    }

    /// Whether labels found by `get` satisfy all conditions.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(get(&requirement.key)))
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |a, b| a > b),
            Operator::LessThan => self.compare(value, |a, b| a < b),
        }
    }

    fn compare(&self, value: Option<&str>, test: impl Fn(i64, i64) -> bool) -> bool {
        let left = value.and_then(|v| v.parse().ok());
        let right = self.values.first().and_then(|v| v.parse().ok());
        left.zip(right)
            .is_some_and(|(left, right)| test(left, right))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Symbol(&'a str),
    Word(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Symbol(text) | Token::Word(text) => text,
        }
    }
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn lex(mut text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return tokens;
        }
        let symbol = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"]
            .into_iter()
            .find(|s| text.starts_with(s));
        let (length, word) = match symbol {
            Some(symbol) => (symbol.len(), false),
            None => {
                let end =
                    text.find(|c: char| is_symbol(c) || matches!(c, ' ' | '\t' | '\r' | '\n'));
                (end.unwrap_or(text.len()), true)
            }
        };
        let (head, tail) = text.split_at(length);
        tokens.push(if word {
            Token::Word(head)
        } else {
            Token::Symbol(head)
        });
        text = tail;
    }
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
}

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.first().copied()
    }

    fn next(&mut self) -> Option<Token<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                None => return Ok(requirements),
                Some(Token::Word(_) | Token::Symbol("!")) => {}
                Some(other) => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
            let requirement = self
                .requirement()
                .map_err(|e| format!("unable to parse requirement: {e}"))?;
            requirements.push(requirement);
            match self.next() {
                None => return Ok(requirements),
                Some(Token::Symbol(",")) => {
                    if !matches!(self.peek(), Some(Token::Word(_) | Token::Symbol("!"))) {
                        return Err(format!(
                            "found '{}', expected: identifier after ','",
                            shown(self.peek())
                        ));
                    }
                }
                Some(other) => {
                    return Err(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.next();
        let negated = token == Some(Token::Symbol("!"));
        if negated {
            token = self.next();
        }
        let Some(Token::Word(key)) = token else {
            return Err(format!("found '{}', expected: identifier", shown(token)));
        };
        if let Some(problem) = names::qualified_name_problems(key).into_iter().next() {
            return Err(format!("<nil>: Invalid value: {key:?}: {problem}"));
        }
        let requirement = |operator, values| Requirement {
            key: key.to_owned(),
            operator,
            values,
        };
        if negated {
            return Ok(requirement(Operator::DoesNotExist, Vec::new()));
        }
        if matches!(self.peek(), None | Some(Token::Symbol(","))) {
            return Ok(requirement(Operator::Exists, Vec::new()));
        }
        let token = self.next();
        let (operator, values) = match token.map(Token::text) {
            Some("=" | "==") => (Operator::In, vec![self.exact_value()]),
            Some("!=") => (Operator::NotIn, vec![self.exact_value()]),
            Some(">") => (Operator::GreaterThan, vec![self.exact_value()]),
            Some("<") => (Operator::LessThan, vec![self.exact_value()]),
            Some("in") => (Operator::In, self.values()?),
            Some("notin") => (Operator::NotIn, self.values()?),
            _ => {
                return Err(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    shown(token)
                ));
            }
        };
        check_values(key, operator, &values)?;
        Ok(requirement(operator, values))
    }

    /// One value; nothing at all is the empty value.
    fn exact_value(&mut self) -> String {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.next();
                word.to_owned()
            }
            _ => String::new(),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Some(Token::Symbol("(")) {
            return Err(format!("found '{}' expected: '('", shown(open)));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.exact_value());
            match self.next() {
                Some(Token::Symbol(",")) => {}
                Some(Token::Symbol(")")) => break,
                other => return Err(format!("found '{}', expected: ',' or ')'", shown(other))),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn shown(token: Option<Token<'_>>) -> &str {
    token.map_or("", Token::text)
}

fn check_values(key: &str, operator: Operator, values: &[String]) -> Result<(), String> {
    if matches!(operator, Operator::GreaterThan | Operator::LessThan)
        && !values.iter().all(|value| value.parse::<i64>().is_ok())
    {
        let value = values.first().map_or("", String::as_str);
        return Err(format!(
            "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
        ));
    }
    for (index, value) in values.iter().enumerate() {
        if let Some(problem) = names::label_value_problems(value).into_iter().next() {
            return Err(format!(
                "values[{index}][{key}]: Invalid value: {value:?}: {problem}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn selects(selector: &str) -> bool {
        let labels = json!({"app": "web", "tier": "", "n": "7", "example.com/x": "y"});
        LabelSelector::parse(selector)
            .expect(selector)
            .matches(labels.as_object())
    }

    #[test]
    fn matching() {
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , n in (6, 7)", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app in (a,web)", true),
            ("app notin (a,web)", false),
            ("missing notin (a)", true),
            ("app", true),
            ("!app", false),
            ("! missing", true),
            ("tier=", true),
            ("tier in ()", true),
            ("n>6,n<8", true),
            ("app>6", false),
            ("example.com/x=y", true),
            ("in=in", false),
        ] {
            assert_eq!(selects(selector), expected, "{selector}");
        }
    }

    #[test]
    fn wording() {
        for (selector, text) in [
            (
                "=a",
                "found '=', expected: !, identifier, or 'end of string'",
            ),
            ("a=b,", "found '', expected: identifier after ','"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            (
                "a in (b",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
        ] {
            assert_eq!(LabelSelector::parse(selector).expect_err(selector).0, text);
        }
        let error = LabelSelector::parse("-a=b").expect_err("bad key").0;
        assert!(
            error.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must"
            ),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_text(text in "[a-c=!(),<> in\\PC]{0,40}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
