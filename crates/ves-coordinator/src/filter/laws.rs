//! What filters are held to: any text is read or refused, what was read is written so that it is read alike, and
//! logic is logic. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const STATES: [&str; 4] = ["STATE_UNSPECIFIED", "STATE_RUNNING", "STATE_STOPPED", "STATE_BROKEN"];

fn state(number: i32) -> Option<&'static str> {
    STATES.get(usize::try_from(number).ok()?).copied()
}

const FIELDS: &[Field] = &[
    Field::new("name", Kind::Text),
    Field::new("ct_id", Kind::Number),
    Field::new("labels", Kind::Map),
    Field::new("create_time", Kind::Time),
    Field::new("delete_protection", Kind::Bool),
    Field::new("spec.interfaces.addresses", Kind::Addresses),
    Field::new("targets", Kind::Texts),
    Field::new("status.state", Kind::Enum(state)),
    Field::short("address", "spec.interfaces.addresses", Kind::Addresses),
    Field::short("state", "status.state", Kind::Enum(state)),
];

/// Something that is listed.
#[derive(Debug, Clone, Default)]
struct Thing {
    name: String,
    ct_id: i128,
    labels: BTreeMap<String, String>,
    create_time: Option<i64>,
    delete_protection: bool,
    addresses: Vec<String>,
    state: i32,
}

impl Thing {
    fn get(&self, path: &str) -> Value<'_> {
        let texts = |texts: &'_ [String]| texts.iter().map(|t| Cow::Owned(t.clone())).collect();
        match path {
            "name" => Value::text(&self.name),
            "ct_id" => Value::Number(self.ct_id),
            "labels" => Value::Map(&self.labels),
            "create_time" => self.create_time.map_or(Value::Absent, Value::Time),
            "delete_protection" => Value::Bool(self.delete_protection),
            "spec.interfaces.addresses" => Value::Texts(texts(&self.addresses)),
            "status.state" => Value::Enum(self.state),
            "targets" => Value::Absent,
            path => panic!("asked for {path}"),
        }
    }
}

fn thing() -> Thing {
    Thing {
        name: "containers/600".to_owned(),
        ct_id: 600,
        labels: BTreeMap::from([
            ("customer".to_owned(), "17".to_owned()),
            ("example.com/role".to_owned(), "Web server".to_owned()),
        ]),
        create_time: Some(1_767_225_600_000),
        delete_protection: true,
        addresses: vec!["203.0.113.5".to_owned(), "2001:db8::5".to_owned()],
        state: 1,
    }
}

fn parsed(text: &str) -> Filter {
    Filter::parse(text, FIELDS).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn refused(text: &str) -> String {
    let fault = Filter::parse(text, FIELDS).expect_err(text);
    assert_eq!(fault.reason, Reason::BadValue, "{text}");
    assert_eq!(fault.facts["field"], "filter");
    fault.message
}

#[test]
fn what_is_written_means_what_it_says() {
    let thing = thing();
    for (text, lets_through) in [
        ("", true),
        ("  \n ", true),
        ("name=containers/600", true),
        (r#"name="containers/6*""#, true),
        ("name=*600", true),
        (r#"name="*ners/6*""#, true),
        ("name=containers/6", false),
        ("name!=containers/6", true),
        ("name:ERS/60", true),
        ("name:*", true),
        ("ct_id=600", true),
        ("ct_id>=600 ct_id<601", true),
        ("ct_id > 600", false),
        ("ct_id != 600", false),
        ("state=RUNNING", true),
        ("status.state=STATE_RUNNING", true),
        ("state=running", true),
        ("state!=STOPPED", true),
        ("labels.customer=17", true),
        (r#"labels.customer="1*""#, true),
        ("labels:customer", true),
        ("labels:cust", false),
        ("labels.customer:*", true),
        ("labels.nobody:*", false),
        ("labels.nobody!=17", true),
        ("labels:*", true),
        (r#"labels.example.com/role="Web server""#, true),
        (r#"labels."example.com/role":"Web server""#, true),
        ("address=203.0.113.5", true),
        (r#"address="2001:DB8:0::0:5""#, true),
        (r#"address:"203.0.113.*""#, true),
        ("address!=203.0.113.5", false),
        ("address=203.0.113.50", false),
        (r#"create_time="2026-01-01T00:00:00Z""#, true),
        (r#"create_time>"2026-01-01T00:00:00+01:00""#, true),
        (r#"create_time<"2026-01-01T00:00:00Z""#, false),
        ("delete_protection=true", true),
        ("targets=x", false),
        ("-targets=x", true),
        ("server", true),
        ("WEB 600", true),
        (r#""web server""#, true),
        ("203.0.113.5", true),
        ("nowhere", false),
        ("-nowhere", true),
        ("NOT nowhere", true),
        ("state=STOPPED OR ct_id=600", true),
        // OR binds tighter than AND.
        ("ct_id=1 AND ct_id=2 OR ct_id=600", false),
        ("(ct_id=1 AND ct_id=2) OR ct_id=600", true),
        ("NOT (state=STOPPED OR ct_id=600)", false),
    ] {
        assert_eq!(parsed(text).matches(|path| thing.get(path)), lets_through, "{text}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    for (text, why) in [
        ("nmae=x", "no field \"nmae\"; there are name, ct_id, labels"),
        ("labels.=x", "the filter cannot be used"),
        ("labels=x", "labels.KEY=VALUE"),
        ("state=UP", "it is one of RUNNING, STOPPED, BROKEN"),
        ("state=UNSPECIFIED", "it is one of"),
        ("state<RUNNING", "has no order"),
        ("name>a", "has no order"),
        ("ct_id=a", "whole number"),
        ("ct_id=1.5", "whole number"),
        ("delete_protection=yes", "true or false"),
        ("create_time>yesterday", "2026-01-31T00:00:00Z"),
        ("create_time>2026-01-01T00:00:00Z", "stands in quotes"),
        ("delete_protection", "write delete_protection=true"),
        ("state", "state:*"),
        ("name=(a OR b)", "each comparison"),
        ("size(name)=3", "no functions"),
        ("name=", "at its end"),
        ("name=\"a", "unterminated"),
        ("a AND", "the filter cannot be used"),
        ("OR", "keyword"),
        ("\"\"", "a word is empty"),
        (")", "the filter cannot be used"),
    ] {
        let said = refused(text);
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn it_has_bounds() {
    let terms = |n: usize| vec!["a"; n].join(" ");
    parsed(&terms(MAX_TERMS));
    assert!(refused(&terms(MAX_TERMS + 1)).contains("more than 64 terms"));
    let nested = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
    parsed(&nested(MAX_DEPTH));
    assert!(refused(&nested(MAX_DEPTH + 1)).contains("deeper than 16"));
    parsed(&"a".repeat(MAX_BYTES));
    assert!(refused(&"a".repeat(MAX_BYTES + 1)).contains("4096"));
    assert!(refused(&"b.".repeat(2000)).len() < 1200, "what is refused is not repeated whole");
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c*]{1,3}", r#"[a-c"'\\ .:=é]{1,4}"#, Just("AND".to_owned())]
}

fn order() -> impl Strategy<Value = Order> {
    use Order::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    prop::sample::select(vec![Less, LessOrEqual, Equal, GreaterOrEqual, Greater])
}

fn set_or(is: Is, text: &str) -> Is {
    if text == "*" { Is::Set } else { is }
}

fn test() -> impl Strategy<Value = Expr> {
    let test =
        |field: &'static str, key: Option<String>, is: Is| Expr::Test(Test { field, key, is });
    prop_oneof![
        word().prop_map(move |w| test("name", None, set_or(Is::Like(Pattern::new(&w)), &w))),
        word().prop_map(move |w| test(
            "name",
            None,
            set_or(Is::Containing(Pattern::exactly(w.clone())), &w)
        )),
        (word(), word()).prop_map(move |(key, w)| {
            test("labels", Some(key), set_or(Is::Like(Pattern::new(&w)), &w))
        }),
        word().prop_map(move |w| test("labels", None, set_or(Is::HavingKey(w.clone()), &w))),
        word().prop_map(move |w| {
            test("spec.interfaces.addresses", None, set_or(Is::Like(Pattern::new(&w)), &w))
        }),
        (order(), -2_i128..3).prop_map(move |(order, n)| test("ct_id", None, Is::Number(order, n))),
        (order(), -2_000_000_i128..2_000_000).prop_map(move |(order, n)| test(
            "create_time",
            None,
            Is::Time(order, n)
        )),
        any::<bool>().prop_map(move |is| test("delete_protection", None, Is::Bool(is))),
        (1..4_i32).prop_map(move |n| {
            test("status.state", None, Is::Enum(n, state(n).unwrap_or_default()))
        }),
        word().prop_map(|w| Expr::Word(Pattern::exactly(w))),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let flat = |exprs: Vec<Expr>, all: bool| {
        let more = exprs.into_iter().flat_map(|expr| match expr {
            Expr::All(more) if all => more,
            Expr::Any(more) if !all => more,
            one => vec![one],
        });
        more.collect::<Vec<_>>()
    };
    test().prop_recursive(4, 24, 3, move |inner| {
        let some = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            some.clone().prop_map(move |exprs| Expr::All(flat(exprs, true))),
            some.prop_map(move |exprs| Expr::Any(flat(exprs, false))),
            inner.prop_map(|expr| Expr::Not(Box::new(expr))),
        ]
    })
}

fn filter(expr: Expr) -> Filter {
    Filter { expr: Some(expr), worded: worded(FIELDS) }
}

fn things() -> impl Strategy<Value = Thing> {
    let labels = prop::collection::btree_map("[a-c]{1,2}", "[a-cA-C]{0,3}", 0..3);
    let few = prop::collection::vec("[a-c]{1,2}", 0..3);
    let parts =
        (word(), -2_i128..3, labels, prop::option::of(-3_i64..3), any::<bool>(), few, 0..4_i32);
    parts.prop_map(|(name, ct_id, labels, create_time, delete_protection, addresses, state)| {
        Thing { name, ct_id, labels, create_time, delete_protection, addresses, state }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_alike(expr in expr()) {
        let filter = filter(expr);
        let text = filter.to_string();
        prop_assert_eq!(Filter::parse(&text, FIELDS), Ok(filter), "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in r#"[a-c*"'\\().:=<>!, é-]{0,40}|(name|ct_id|labels|state|AND|OR|NOT|[ ():=".]){0,20}"#) {
        if let Ok(filter) = Filter::parse(&text, FIELDS) {
            let again = filter.to_string();
            prop_assert_eq!(Filter::parse(&again, FIELDS), Ok(filter), "{}", again);
        }
    }

    #[test]
    fn de_morgan(a in expr(), b in expr(), thing in things()) {
        let holds = |expr: Expr| filter(expr).matches(|path| thing.get(path));
        let not = |expr: Expr| Expr::Not(Box::new(expr));
        let (both, either) = (Expr::All(vec![a.clone(), b.clone()]), Expr::Any(vec![a.clone(), b.clone()]));
        prop_assert_eq!(holds(not(both)), holds(Expr::Any(vec![not(a.clone()), not(b.clone())])));
        prop_assert_eq!(holds(not(either)), holds(Expr::All(vec![not(a.clone()), not(b)])));
        prop_assert_eq!(holds(not(not(a.clone()))), holds(a));
    }
}
