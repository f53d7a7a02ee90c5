//! As much of PromQL as our queries are written in: selectors, ranges, functions, aggregations, operators.
//! What is beyond is refused, so that no query is taken for checked that was not read. Pure.
//!
//! Not the package promql-parser: it brings thirty others into each build, among them bincode, which nobody
//! maintains any more. `promtool` reads the alerts whole.

/// Those that take `by` and `without`.
const AGGREGATIONS: [&str; 8] =
    ["sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile"];
/// Binary operators, the longer before those they begin with. What binds more is no matter here.
const OPERATORS: [&str; 15] =
    ["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "^", "and", "or", "unless"];

/// A query, as far as labels are its matter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Query {
    /// A number or a text.
    Literal,
    /// Series of this name, by matchers: label, operator, value.
    Selector(String, Vec<(String, String, String)>),
    /// A function and what it is of.
    Call(String, Vec<Query>),
    /// An aggregation, the labels it is by or without where it says, and what it is of.
    Aggregation(String, Option<(bool, Vec<String>)>, Vec<Query>),
    /// Two sides, and the labels by which they are matched where that is said.
    Both(Box<Query>, Option<Vec<String>>, Box<Query>),
}

/// Reads a query.
pub(super) fn parse(text: &str) -> Result<Query, String> {
    let mut rest = Rest(text.trim());
    let query = rest.query()?;
    if rest.0.is_empty() { Ok(query) } else { Err(format!("what is {:?}?", rest.0)) }
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, chars: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(chars);
        self.0 = rest.trim_start();
        taken
    }
    /// Takes this where it is next; a word only where it ends there.
    fn take(&mut self, what: &str) -> bool {
        let is_word = what.ends_with(|c: char| c.is_ascii_alphabetic());
        let goes_on =
            |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let next = self.0.strip_prefix(what).is_some_and(|rest| !(is_word && goes_on(rest)));
        if next {
            self.skip(what.len());
        }
        next
    }
    fn need(&mut self, what: &str) -> Result<(), String> {
        if self.take(what) { Ok(()) } else { Err(format!("no {what:?} before {:?}", self.0)) }
    }
    fn while_is(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !is(c)).unwrap_or(self.0.len());
        self.skip(end)
    }
    fn word(&mut self) -> Result<String, String> {
        match self.while_is(|c| c.is_ascii_alphanumeric() || c == '_') {
            "" => Err(format!("no name before {:?}", self.0)),
            word if word.starts_with(|c: char| c.is_ascii_digit()) => {
                Err(format!("{word:?} is no name"))
            }
            word => Ok(word.to_owned()),
        }
    }
    fn text(&mut self) -> Result<String, String> {
        self.need("\"")?;
        let text = self.while_is(|c| c != '"').to_owned();
        self.need("\"").map(|()| text)
    }
    fn duration(&mut self) -> Result<(), String> {
        let duration = self.while_is(|c| c.is_ascii_alphanumeric());
        let unit = duration.trim_start_matches(|c: char| c.is_ascii_digit());
        let known = ["s", "m", "h", "d"].contains(&unit) && unit.len() < duration.len();
        if known { Ok(()) } else { Err(format!("{duration:?} is no time")) }
    }
    /// `( … , … )`
    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        self.need("(")?;
        let mut all = vec![one(self)?];
        while self.take(",") {
            all.push(one(self)?);
        }
        self.need(")").map(|()| all)
    }

    fn query(&mut self) -> Result<Query, String> {
        let mut left = self.side()?;
        while OPERATORS.iter().any(|operator| self.take(operator)) {
            let on = if self.take("on") { Some(self.list(Self::word)?) } else { None };
            left = Query::Both(Box::new(left), on, Box::new(self.side()?));
        }
        Ok(left)
    }

    fn side(&mut self) -> Result<Query, String> {
        if self.take("(") {
            let inner = self.query()?;
            return self.need(")").map(|()| inner);
        }
        if self.0.starts_with('"') {
            return self.text().map(|_| Query::Literal);
        }
        let number = self.while_is(|c| c.is_ascii_digit() || c == '.');
        if !number.is_empty() {
            return number
                .parse::<f64>()
                .map(|_| Query::Literal)
                .map_err(|e| format!("{number}: {e}"));
        }
        let name = self.word()?;
        if AGGREGATIONS.contains(&&*name) {
            let by = match (self.take("by"), self.take("without")) {
                (false, false) => None,
                (by, _) => Some((by, self.list(Self::word)?)),
            };
            return Ok(Query::Aggregation(name, by, self.list(Self::query)?));
        }
        if self.0.starts_with('(') {
            return Ok(Query::Call(name, self.list(Self::query)?));
        }
        let mut matchers = Vec::new();
        if self.take("{") {
            loop {
                let label = self.word()?;
                let operator = ["=~", "!~", "!=", "="].into_iter().find(|o| self.take(o));
                let operator = operator.ok_or_else(|| format!("no matcher at {:?}", self.0))?;
                matchers.push((label, operator.to_owned(), self.text()?));
                if !self.take(",") {
                    break;
                }
            }
            self.need("}")?;
        }
        if self.take("[") {
            self.duration()?;
            self.need("]")?;
        }
        if self.take("offset") {
            self.duration()?;
        }
        Ok(Query::Selector(name, matchers))
    }
}

#[test]
fn queries_are_read_and_nonsense_is_not() {
    let matchers = vec![("b".to_owned(), "=~".to_owned(), "$c".to_owned())];
    let selected = Query::Selector("a".to_owned(), matchers);
    assert_eq!(parse(r#"a{b=~"$c"}[5m] offset 1h"#), Ok(selected.clone()));
    let rate = Query::Call("rate".to_owned(), vec![selected]);
    let by = Some((true, vec!["x".to_owned(), "y".to_owned()]));
    let sum = Query::Aggregation("sum".to_owned(), by, vec![rate]);
    let over = Query::Both(Box::new(sum), None, Box::new(Query::Literal));
    assert_eq!(parse(r#"(sum by (x, y) (rate(a{b=~"$c"}[5m]))) / 0.5"#), Ok(over));
    for bad in
        ["", "a{", "a{b}", "a b", "sum(a", "a[5]", "a[m]", "rate()", "1.2.3", "sum by a", "a +"]
    {
        assert!(parse(bad).is_err(), "{bad}");
    }
    assert_eq!(parse("order"), Ok(Query::Selector("order".to_owned(), vec![])), "no operator");
}
