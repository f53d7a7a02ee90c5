//! Filters of lists and watches: what of AIP-160 there is, checked against the fields of what is listed. Pure.
//!
//! The syntax is read by the crate `aip-160`, which knows AIP's whole grammar and bounds its depth; what it reads is
//! made into tests of known fields here, so that a filter that was accepted cannot fail later. `OR` binds tighter
//! than `AND`, as AIP has it. Never here: what a field's value is; whoever lists has that ([`fields`] for messages).
//!
//! | written | means |
//! |---|---|
//! | `a=x`, `a!=x` | is it, is it not; `"x*"`, `"*x"`, `"*x*"` for texts; of a list: one of it is, none is |
//! | `a<x`, `a<=x`, `a>x`, `a>=x` | of numbers and times |
//! | `a:x` | a text contains it, whatever the case; a list has it; a map has the key; else as `=` |
//! | `a:*` | there is a value that is not empty |
//! | `x`, `"x y"` | some text, item of a list or value of a map contains it, whatever the case |
//! | `a b`, `a AND b`, `a OR b`, `NOT a`, `-a`, `(a)` | as they say |

pub mod fields;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use aip_160::{Arg, Comparable, Comparator, Expression, FilterError, Member, Restriction};
use ves_proto::{Fault, Reason};

/// How many bytes a filter has at most.
pub const MAX_BYTES: usize = 4096;
/// How many comparisons and words a filter has at most.
pub const MAX_TERMS: usize = 64;
/// How deep its parentheses nest at most.
pub const MAX_DEPTH: usize = 16;

/// A field that a filter may speak of.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// As it is written.
    path: &'static str,
    /// What it stands for, where it is a shorter way to write another; else itself.
    means: &'static str,
    kind: Kind,
}

/// What the values of a field are.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// [`Value::Text`].
    Text,
    /// [`Value::Texts`].
    Texts,
    /// [`Value::Texts`] of addresses, which are the same however they are written.
    Addresses,
    /// [`Value::Map`].
    Map,
    /// [`Value::Number`].
    Number,
    /// [`Value::Bool`].
    Bool,
    /// [`Value::Time`].
    Time,
    /// [`Value::Enum`]: the whole name of each number there is.
    Enum(fn(i32) -> Option<&'static str>),
}

impl Field {
    /// A field.
    pub const fn new(path: &'static str, kind: Kind) -> Self {
        Self { path, means: path, kind }
    }

    /// A shorter way to write another field.
    pub const fn short(path: &'static str, means: &'static str, kind: Kind) -> Self {
        Self { path, means, kind }
    }
}

/// What a field's value is in what is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'v> {
    /// There is none: no test of it is true.
    Absent,
    /// A text; empty where it is not set.
    Text(Cow<'v, str>),
    /// Texts.
    Texts(Vec<Cow<'v, str>>),
    /// Texts by keys.
    Map(&'v BTreeMap<String, String>),
    /// A number.
    Number(i128),
    /// Yes or no.
    Bool(bool),
    /// In milliseconds since 1970.
    Time(i64),
    /// The number of an enum's value.
    Enum(i32),
}

impl<'v> Value<'v> {
    /// A text.
    pub fn text(text: impl Into<Cow<'v, str>>) -> Self {
        Self::Text(text.into())
    }
}

/// What a list is asked for. The default is everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    expr: Option<Expr>,
    /// Where words are looked for.
    worded: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expr {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Word(Pattern),
    Test(Test),
}

/// A comparison of a field, or of one key's value in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    field: &'static str,
    key: Option<String>,
    is: Is,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Is {
    /// There is a value that is not empty.
    Set,
    Like(Pattern),
    Containing(Pattern),
    HavingKey(String),
    Number(Order, i128),
    Bool(bool),
    /// In nanoseconds since 1970.
    Time(Order, i128),
    Enum(i32, &'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

/// A text, and whether more may stand before and after it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    before: bool,
    core: String,
    after: bool,
}

impl Filter {
    /// Reads a filter of what has these fields. An empty one lets everything through.
    ///
    /// # Errors
    /// `BAD_VALUE` on "filter", which says what is wrong with it, and where fields or names are unknown, which there
    /// are.
    pub fn parse(text: &str, fields: &[Field]) -> Result<Self, Fault> {
        if text.len() > MAX_BYTES {
            return Err(bad(format!("it has {} bytes; {MAX_BYTES} are the most", text.len())));
        }
        let read =
            aip_160::parse_filter_with_max_depth(text, MAX_DEPTH).map_err(|e| syntax(text, &e))?;
        let mut reader = Reader { fields, terms: 0 };
        let expr = read.expression.map(|expr| reader.expr(expr)).transpose()?;
        Ok(Self { expr, worded: worded(fields) })
    }

    /// Whether it lets everything through.
    pub const fn is_empty(&self) -> bool {
        self.expr.is_none()
    }

    /// Whether it lets through what `get` has the fields of. `get` is asked for the paths of the fields, never for
    /// their short ways nor for keys of maps.
    pub fn matches<'v>(&self, get: impl Fn(&str) -> Value<'v>) -> bool {
        self.expr.as_ref().is_none_or(|expr| expr.matches(&self.worded, &get))
    }
}

/// Where words are looked for.
fn worded(fields: &[Field]) -> Vec<&'static str> {
    let texts = |field: &&Field| {
        matches!(field.kind, Kind::Text | Kind::Texts | Kind::Addresses | Kind::Map)
            && field.path == field.means
    };
    fields.iter().filter(texts).map(|field| field.path).collect()
}

impl Expr {
    fn matches<'v>(&self, worded: &[&str], get: &impl Fn(&str) -> Value<'v>) -> bool {
        match self {
            Self::All(all) => all.iter().all(|expr| expr.matches(worded, get)),
            Self::Any(any) => any.iter().any(|expr| expr.matches(worded, get)),
            Self::Not(expr) => !expr.matches(worded, get),
            Self::Word(word) => worded.iter().any(|path| match get(path) {
                Value::Text(text) => word.is_in(&text),
                Value::Texts(texts) => texts.iter().any(|text| word.is_in(text)),
                Value::Map(map) => map.values().any(|text| word.is_in(text)),
                Value::Absent
                | Value::Number(_)
                | Value::Bool(_)
                | Value::Time(_)
                | Value::Enum(_) => false,
            }),
            Self::Test(test) => test.matches(&get(test.field)),
        }
    }
}

impl Test {
    fn matches(&self, value: &Value<'_>) -> bool {
        match (&self.is, value, &self.key) {
            (Is::HavingKey(key), Value::Map(map), _) => map.contains_key(key),
            (is, Value::Map(map), Some(key)) => map.get(key).is_some_and(|text| is.of_text(text)),
            (Is::Set, Value::Map(map), None) => !map.is_empty(),
            (Is::Set, Value::Number(_) | Value::Time(_), _) => true,
            (Is::Set, Value::Enum(number), _) => *number != 0,
            (Is::Set, Value::Bool(is), _) => *is,
            (is, Value::Text(text), _) => is.of_text(text),
            (is, Value::Texts(texts), _) => texts.iter().any(|text| is.of_text(text)),
            (Is::Number(order, than), Value::Number(is), _) => order.holds(is, than),
            (Is::Time(order, than), Value::Time(ms), _) => {
                order.holds(&i128::from(*ms).saturating_mul(NANOS_PER_MILLI), than)
            }
            (Is::Bool(wanted), Value::Bool(is), _) => wanted == is,
            (Is::Enum(wanted, _), Value::Enum(is), _) => wanted == is,
            _ => false,
        }
    }
}

const NANOS_PER_MILLI: i128 = 1_000_000;

impl Is {
    fn of_text(&self, text: &str) -> bool {
        match self {
            Self::Set => !text.is_empty(),
            Self::Like(pattern) => pattern.is(text),
            Self::Containing(pattern) => pattern.is_in(text),
            Self::HavingKey(_)
            | Self::Number(..)
            | Self::Bool(_)
            | Self::Time(..)
            | Self::Enum(..) => false,
        }
    }
}

impl Order {
    fn holds(self, value: &i128, than: &i128) -> bool {
        match self {
            Self::Less => value < than,
            Self::LessOrEqual => value <= than,
            Self::Equal => value == than,
            Self::GreaterOrEqual => value >= than,
            Self::Greater => value > than,
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let (before, text) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
        let (after, core) = text.strip_suffix('*').map_or((false, text), |rest| (true, rest));
        Self { before, core: core.to_owned(), after }
    }

    /// A text that is taken as it stands.
    fn exactly(text: String) -> Self {
        Self { before: false, core: text, after: false }
    }

    fn is(&self, text: &str) -> bool {
        match (self.before, self.after) {
            (false, false) => text == self.core,
            (false, true) => text.starts_with(&self.core),
            (true, false) => text.ends_with(&self.core),
            (true, true) => text.contains(&self.core),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.core.to_lowercase())
    }
}

/// Makes tests of what was read.
struct Reader<'a> {
    fields: &'a [Field],
    terms: usize,
}

impl Reader<'_> {
    fn expr(&mut self, read: Expression) -> Result<Expr, Fault> {
        match read {
            Expression::And(all) | Expression::Sequence(all) => {
                let mut exprs = Vec::with_capacity(all.len());
                for expr in all {
                    match self.expr(expr)? {
                        Expr::All(more) => exprs.extend(more),
                        one => exprs.push(one),
                    }
                }
                Ok(Expr::All(exprs))
            }
            Expression::Or(any) => {
                let mut exprs = Vec::with_capacity(any.len());
                for expr in any {
                    match self.expr(expr)? {
                        Expr::Any(more) => exprs.extend(more),
                        one => exprs.push(one),
                    }
                }
                Ok(Expr::Any(exprs))
            }
            Expression::Not(expr) => Ok(Expr::Not(Box::new(self.expr(*expr)?))),
            Expression::Restriction(restriction) => {
                self.count()?;
                self.test(&restriction)
            }
            Expression::Global(word) => {
                self.count()?;
                self.word(&word)
            }
        }
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.terms = self.terms.saturating_add(1);
        if self.terms > MAX_TERMS {
            return Err(bad(format!("it has more than {MAX_TERMS} terms")));
        }
        Ok(())
    }

    fn word(&self, word: &Comparable) -> Result<Expr, Fault> {
        let member = member(word)?;
        let text = joined(member);
        let quoted = member.value.is_quoted();
        if !quoted && let Some(field) = self.fields.iter().find(|field| field.path == text) {
            let how = match field.kind {
                Kind::Bool => "=true",
                _ => ":*",
            };
            return Err(bad(format!(
                "{text} alone compares nothing; write {text}{how}, or \"{text}\" for the word"
            )));
        }
        if text.is_empty() {
            return Err(bad("a word is empty"));
        }
        Ok(Expr::Word(Pattern::exactly(text)))
    }

    fn test(&self, restriction: &Restriction) -> Result<Expr, Fault> {
        let Restriction { comparable, comparator, arg } = restriction;
        let path = member(comparable)?;
        let Arg::Comparable(arg) = arg else {
            return Err(bad(format!(
                "{restriction}: a value stands alone; write each comparison on its own"
            )));
        };
        let text = joined(member(arg)?);
        let (field, key) = self.field(path)?;
        let test = |is| Expr::Test(Test { field: field.means, key: key.clone(), is });
        let wrong = |why: &str| bad(format!("{restriction}: {why}"));
        let texts =
            matches!(field.kind, Kind::Text | Kind::Texts | Kind::Addresses) || key.is_some();
        if text == "*"
            && (*comparator == Comparator::Has || *comparator == Comparator::Equal && texts)
        {
            return Ok(test(Is::Set));
        }
        let (order, negated) = match comparator {
            Comparator::Equal | Comparator::Has => (Order::Equal, false),
            Comparator::NotEqual => (Order::Equal, true),
            Comparator::LessThan => (Order::Less, false),
            Comparator::LessThanOrEqual => (Order::LessOrEqual, false),
            Comparator::GreaterThan => (Order::Greater, false),
            Comparator::GreaterThanOrEqual => (Order::GreaterOrEqual, false),
        };
        let has = *comparator == Comparator::Has;
        let ordered = matches!(field.kind, Kind::Number | Kind::Time);
        if order != Order::Equal && !ordered {
            return Err(wrong("it has no order; only numbers and times have one"));
        }
        let is = match field.kind {
            Kind::Text if has => Is::Containing(Pattern::exactly(text)),
            Kind::Map if key.is_none() && has => Is::HavingKey(text),
            Kind::Map if key.is_none() => {
                let path = field.path;
                return Err(wrong(&format!(
                    "it is a map; write {path}.KEY{comparator}VALUE, or {path}:KEY"
                )));
            }
            Kind::Text | Kind::Texts | Kind::Map => Is::Like(Pattern::new(&text)),
            Kind::Addresses => match text.parse::<IpAddr>() {
                Ok(address) => Is::Like(Pattern::exactly(address.to_string())),
                Err(_) => Is::Like(Pattern::new(&text)),
            },
            Kind::Number => {
                Is::Number(order, text.parse().map_err(|_| wrong("it is a whole number"))?)
            }
            Kind::Bool => Is::Bool(text.parse().map_err(|_| wrong("it is true or false"))?),
            Kind::Time => {
                let why = "it is a time, as in \"2026-01-31T00:00:00Z\"";
                let time: jiff::Timestamp = text.parse().map_err(|_| wrong(why))?;
                Is::Time(order, time.as_nanosecond())
            }
            Kind::Enum(names) => {
                let (number, name) = enum_value(names, &text).map_err(|there| wrong(&there))?;
                Is::Enum(number, name)
            }
        };
        let test = test(is);
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    /// The field that a path leads to, and the key in it where it is a map.
    fn field(&self, path: &Member) -> Result<(Field, Option<String>), Fault> {
        let text = joined(path);
        if let Some(field) = self.fields.iter().find(|field| field.path == text) {
            return Ok((*field, None));
        }
        let map = self.fields.iter().filter(|field| matches!(field.kind, Kind::Map));
        let mut inside = map.filter_map(|field| {
            let key = text.strip_prefix(field.path)?.strip_prefix('.')?;
            Some((*field, Some(key.to_owned())))
        });
        inside.next().filter(|(_, key)| key.as_ref().is_some_and(|key| !key.is_empty())).ok_or_else(
            || {
                let there: Vec<_> = self.fields.iter().map(|field| field.path).collect();
                bad(format!("there is no field {:?}; there are {}", shown(&text), there.join(", ")))
            },
        )
    }
}

/// The number and the whole name of an enum's value, written with what all its names begin with or without, in any
/// case; or else which there are.
fn enum_value(
    names: fn(i32) -> Option<&'static str>,
    text: &str,
) -> Result<(i32, &'static str), String> {
    let prefix = names(0).and_then(|name| name.strip_suffix("UNSPECIFIED")).unwrap_or_default();
    let all = || (1..=i32::from(u8::MAX)).filter_map(|n| Some((n, names(n)?)));
    let bare = |name: &'static str| name.strip_prefix(prefix).unwrap_or(name);
    let is = |name: &'static str| {
        name.eq_ignore_ascii_case(text) || bare(name).eq_ignore_ascii_case(text)
    };
    all().find(|(_, name)| is(name)).ok_or_else(|| {
        let there: Vec<_> = all().map(|(_, name)| bare(name)).collect();
        format!("it is one of {}", there.join(", "))
    })
}

fn member(comparable: &Comparable) -> Result<&Member, Fault> {
    comparable.as_member().ok_or_else(|| bad(format!("{comparable}: there are no functions")))
}

fn joined(member: &Member) -> String {
    let parts: Vec<_> =
        std::iter::once(&member.value).chain(&member.fields).map(aip_160::Value::as_str).collect();
    parts.join(".")
}

/// So much of a text as a message may repeat.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

fn syntax(text: &str, error: &FilterError) -> Fault {
    match error {
        FilterError::TooDeep { .. } => bad(format!("its parentheses nest deeper than {MAX_DEPTH}")),
        FilterError::Syntax { offset, message } => {
            let rest = text.get(*offset..).unwrap_or_default();
            let at = match shown(rest) {
                end if end.is_empty() => "its end".to_owned(),
                rest => format!("{rest:?}"),
            };
            let quotes = "; what has \":\", \"=\" or blanks in it stands in quotes";
            bad(format!("{message} at {at}{quotes}"))
        }
        other => bad(other),
    }
}

fn bad(why: impl fmt::Display) -> Fault {
    let why: String = why.to_string().chars().take(1000).collect();
    Fault::new(Reason::BadValue, format!("the filter cannot be used: {why}"))
        .fact("field", "filter")
}

/// The filter as it was understood; reading that gives the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.as_ref().map_or(Ok(()), |expr| expr.fmt(f))
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, exprs: &[Self], between: &str| {
            for (n, expr) in exprs.iter().enumerate() {
                if n > 0 {
                    f.write_str(between)?;
                }
                // OR binds tighter.
                match expr {
                    Self::All(_) => write!(f, "({expr})")?,
                    expr => expr.fmt(f)?,
                }
            }
            Ok(())
        };
        match self {
            Self::All(all) => list(f, all, " AND "),
            Self::Any(any) => list(f, any, " OR "),
            Self::Not(expr) => match **expr {
                Self::Word(_) | Self::Test(_) => write!(f, "NOT {expr}"),
                Self::All(_) | Self::Any(_) | Self::Not(_) => write!(f, "NOT ({expr})"),
            },
            Self::Word(word) => quoted(&word.core).fmt(f),
            Self::Test(test) => test.fmt(f),
        }
    }
}

fn quoted(text: &str) -> aip_160::Value {
    aip_160::Value::String(text.to_owned())
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field)?;
        if let Some(key) = &self.key {
            write!(f, ".{}", quoted(key))?;
        }
        match &self.is {
            Is::Set => f.write_str(":*"),
            Is::Like(Pattern { before, core, after }) => {
                let star = |is: &bool| if *is { "*" } else { "" };
                write!(f, "={}", quoted(&format!("{}{core}{}", star(before), star(after))))
            }
            Is::Containing(pattern) => write!(f, ":{}", quoted(&pattern.core)),
            Is::HavingKey(key) => write!(f, ":{}", quoted(key)),
            Is::Number(order, number) => write!(f, "{order}{number}"),
            Is::Bool(is) => write!(f, "={is}"),
            Is::Time(order, nanos) => match jiff::Timestamp::from_nanosecond(*nanos) {
                Ok(time) => write!(f, "{order}\"{time}\""),
                Err(_) => write!(f, "{order}{nanos}"),
            },
            Is::Enum(_, name) => write!(f, "={name}"),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">",
        })
    }
}

#[cfg(test)]
mod laws;
