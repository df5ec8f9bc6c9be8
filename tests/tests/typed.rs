//! Events as Rust types: how they are written, and how old and new ones are read.

use consumer::{Aggregate, Event, EventRecord, HandlerError, NewEvent, PersistedEvent};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "User", version = 3, upcast(1 = UserRegisteredV1, 2 = UserRegisteredV2))]
struct UserRegistered {
    email: String,
    name: String,
    newsletter: bool,
}

#[derive(Deserialize)]
struct UserRegisteredV1 {
    mail: String,
}

#[derive(Deserialize)]
struct UserRegisteredV2 {
    email: String,
    name: Option<String>,
}

impl From<UserRegisteredV1> for UserRegisteredV2 {
    fn from(old: UserRegisteredV1) -> Self {
        Self {
            email: old.mail,
            name: None,
        }
    }
}

impl From<UserRegisteredV2> for UserRegistered {
    fn from(old: UserRegisteredV2) -> Self {
        Self {
            name: old.name.unwrap_or_else(|| "unknown".into()),
            email: old.email,
            newsletter: false,
        }
    }
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Address {
    lines: Vec<String>,
}

#[derive(Deserialize)]
struct MovedV1 {
    city: String,
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "User")]
#[serde(rename_all_fields = "camelCase")]
enum UserEvent {
    Registered(UserRegistered),
    AddressChanged(Address),
    #[event(name = "UserRenamed", version = 2)]
    Renamed {
        new_name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    #[event(version = 2, upcast(1 = MovedV1))]
    Moved {
        new_city: String,
    },
    #[event(name = "UserDeleted")]
    Deleted,
}

impl From<MovedV1> for UserEvent {
    fn from(old: MovedV1) -> Self {
        Self::Moved { new_city: old.city }
    }
}

fn stored(event_type: &str, version: i32, payload: &'static str) -> PersistedEvent {
    PersistedEvent::new(EventRecord {
        global_position: 17,
        aggregate_type: "User".into(),
        event_type: event_type.into(),
        event_version: version,
        payload: payload.into(),
        ..EventRecord::default()
    })
}

fn appended(event: &impl Event) -> PersistedEvent {
    let new = NewEvent::typed(event).unwrap().of("u-1");
    PersistedEvent::new(EventRecord {
        aggregate_type: new.aggregate_type,
        event_type: new.event_type,
        event_version: new.event_version,
        payload: new.payload,
        ..EventRecord::default()
    })
}

fn text(event: &PersistedEvent) -> &str {
    std::str::from_utf8(&event.payload).unwrap()
}

#[test]
fn a_struct_is_one_event_named_as_itself() {
    assert_eq!(UserRegistered::AGGREGATE_TYPE, "User");
    assert_eq!(UserRegistered::EVENT_TYPES, ["UserRegistered"]);
}

#[test]
fn an_enum_is_an_aggregate_and_its_variants_are_the_events() {
    fn is_an_aggregate<A: Aggregate>() {}
    is_an_aggregate::<UserEvent>();
    assert_eq!(
        UserEvent::EVENT_TYPES,
        [
            "UserRegistered",
            "AddressChanged",
            "UserRenamed",
            "Moved",
            "UserDeleted"
        ]
    );
}

#[test]
fn what_is_appended_is_read_back() {
    let registered = || UserRegistered {
        email: "ada@example.com".into(),
        name: "Ada".into(),
        newsletter: true,
    };
    let event = appended(&registered());
    assert_eq!(event.event_version, 3);
    assert_eq!(UserRegistered::decode(&event).unwrap(), registered());
    for event in [
        UserEvent::Registered(registered()),
        UserEvent::AddressChanged(Address { lines: vec![] }),
        UserEvent::Renamed {
            new_name: "Countess".into(),
            reason: None,
        },
        UserEvent::Moved {
            new_city: "London".into(),
        },
        UserEvent::Deleted,
    ] {
        assert_eq!(UserEvent::decode(&appended(&event)).unwrap(), event);
    }
}

#[test]
fn a_payload_is_the_content_of_the_variant_without_a_tag() {
    let renamed = appended(&UserEvent::Renamed {
        new_name: "Countess".into(),
        reason: None,
    });
    assert_eq!(&*renamed.event_type, "UserRenamed");
    assert_eq!(renamed.event_version, 2);
    assert_eq!(text(&renamed), r#"{"newName":"Countess"}"#);
    let registered = appended(&UserEvent::Registered(UserRegistered {
        email: String::new(),
        name: String::new(),
        newsletter: false,
    }));
    assert_eq!(&*registered.event_type, "UserRegistered");
    assert_eq!(registered.event_version, 3);
    assert_eq!(
        text(&registered),
        r#"{"email":"","name":"","newsletter":false}"#
    );
    assert_eq!(text(&appended(&UserEvent::Deleted)), "{}");
}

#[test]
fn old_versions_are_read_through_all_later_ones() {
    let first = stored("UserRegistered", 1, r#"{"mail":"ada@example.com"}"#);
    let expected = UserRegistered {
        email: "ada@example.com".into(),
        name: "unknown".into(),
        newsletter: false,
    };
    assert_eq!(UserRegistered::decode(&first).unwrap(), expected);
    assert_eq!(
        UserEvent::decode(&first).unwrap(),
        UserEvent::Registered(expected)
    );
    let second = stored("UserRegistered", 2, r#"{"email":"a@b","name":"Ada"}"#);
    assert_eq!(UserRegistered::decode(&second).unwrap().name, "Ada");
    let moved = stored("Moved", 1, r#"{"city":"Turin"}"#);
    assert_eq!(
        UserEvent::decode(&moved).unwrap(),
        UserEvent::Moved {
            new_city: "Turin".into()
        }
    );
}

#[test]
fn a_decode_error_names_position_type_version_and_path() {
    let event = stored(
        "UserRegistered",
        3,
        r#"{"email":5,"name":"Ada","newsletter":true}"#,
    );
    let error = UserRegistered::decode(&event).unwrap_err();
    assert_eq!(error.position(), 17);
    assert_eq!(error.path().unwrap(), "email");
    assert_eq!(
        HandlerError::from(error.for_consumer("users")).to_string(),
        "`users`: cannot decode the event `UserRegistered`, version 3, at position 17: \
         at `email`: invalid type: integer `5`, expected a string at line 1 column 10"
    );
    let event = stored("AddressChanged", 1, r#"{"lines":["a",{}]}"#);
    let error = UserEvent::decode(&event).unwrap_err();
    assert_eq!(error.path().unwrap(), "lines[1]");
    let event = stored("UserRenamed", 2, r#"{"newName":{}}"#);
    let error = UserEvent::decode(&event).unwrap_err();
    assert_eq!(error.path().unwrap(), "newName");
}

#[test]
fn a_decode_error_as_a_handler_error_says_everything_once() {
    let event = stored("UserRegistered", 3, "{}");
    let error = HandlerError::from(UserRegistered::decode(&event).unwrap_err());
    assert_eq!(
        error.to_string(),
        "cannot decode the event `UserRegistered`, version 3, at position 17: \
         in the payload: missing field `email` at line 1 column 2"
    );
}

#[test]
fn a_version_from_a_later_release_is_an_error() {
    let error = UserRegistered::decode(&stored("UserRegistered", 4, "{}")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode the event `UserRegistered`, version 4, at position 17: \
         this program reads versions up to 3; deploy a release that reads this one"
    );
    let error = UserEvent::decode(&stored("UserRenamed", 1, "{}")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode the event `UserRenamed`, version 1, at position 17: \
         the current version is 2; add `upcast(1 = …)` to read this one"
    );
}

#[test]
fn another_event_type_and_trailing_characters_are_errors() {
    let error = UserEvent::decode(&stored("OrderPlaced", 1, "{}")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected one of `UserRegistered`, `AddressChanged`")
    );
    let event = stored("UserRenamed", 2, r#"{"newName":"Ada"} x"#);
    let error = HandlerError::from(UserEvent::decode(&event).unwrap_err());
    assert!(
        error
            .to_string()
            .contains("in the payload: trailing characters"),
        "{error}"
    );
}

#[test]
fn a_type_only_reads_its_own_events() {
    let payload = r#"{"email":"a@b","name":"Ada","newsletter":true}"#;
    let error = UserRegistered::decode(&stored("UserRenamed", 3, payload)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("expected one of `UserRegistered`"),
        "{error}"
    );
    let foreign = |kind: &str, version| {
        PersistedEvent::new(EventRecord {
            aggregate_type: "Order".into(),
            event_type: kind.into(),
            event_version: version,
            payload: payload.to_owned().into(),
            ..EventRecord::default()
        })
    };
    for error in [
        UserRegistered::decode(&foreign("UserRegistered", 3)).unwrap_err(),
        UserEvent::decode(&foreign("UserDeleted", 1)).unwrap_err(),
    ] {
        assert!(
            error
                .to_string()
                .ends_with("it belongs to the aggregate `Order`, and this is an event of `User`"),
            "{error}"
        );
    }
}

#[test]
fn an_event_without_content_reads_any_payload() {
    for payload in ["", "{}", "null"] {
        let event = UserEvent::decode(&stored("UserDeleted", 1, payload)).unwrap();
        assert_eq!(event, UserEvent::Deleted);
    }
}

/// An event whose `Serialize` is written by hand, without the name of the variant.
#[derive(Event, Deserialize)]
#[event(aggregate = "User")]
enum Untagged {
    Paid { amount: u32, currency: String },
}

impl Serialize for Untagged {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self::Paid { amount, currency } = self;
        [
            ("amount", amount.to_string()),
            ("currency", currency.clone()),
        ]
        .into_iter()
        .collect::<std::collections::BTreeMap<_, _>>()
        .serialize(serializer)
    }
}

#[test]
fn an_enum_that_serde_does_not_tag_is_not_encoded() {
    let event = Untagged::Paid {
        amount: 5,
        currency: "EUR".into(),
    };
    let error = event.encode().unwrap_err().to_string();
    assert!(error.contains("as `#[derive(Serialize)]` does"), "{error}");
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "User")]
enum Odd {
    Flat {
        id: u32,
        #[serde(flatten)]
        rest: std::collections::BTreeMap<String, String>,
    },
    #[serde(with = "in_cents")]
    Paid { amount: f64 },
    Skipping {
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
}

mod in_cents {
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn serialize<S: Serializer>(amount: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64((amount * 100.0).round() as i64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        i32::deserialize(from).map(|cents| f64::from(cents) / 100.0)
    }
}

#[test]
fn serde_attributes_of_a_variant_with_fields_apply() {
    for (event, payload) in [
        (
            Odd::Flat {
                id: 1,
                rest: [("k".to_owned(), "v".to_owned())].into(),
            },
            r#"{"id":1,"k":"v"}"#,
        ),
        (Odd::Paid { amount: 12.5 }, "1250"),
        (Odd::Skipping { note: None }, "{}"),
    ] {
        let stored = appended(&event);
        assert_eq!(text(&stored), payload);
        assert_eq!(Odd::decode(&stored).unwrap(), event);
    }
}

#[derive(Event, Debug, PartialEq)]
#[event(aggregate = "User")]
enum Boxed {
    Registered(Box<UserRegistered>),
}

#[test]
fn a_boxed_event_is_the_event() {
    assert_eq!(Boxed::EVENT_TYPES, ["UserRegistered"]);
    let event = || UserRegistered {
        email: "ada@example.com".into(),
        name: "Ada".into(),
        newsletter: true,
    };
    let boxed = Boxed::Registered(Box::new(event()));
    let stored = appended(&boxed);
    assert_eq!(
        (&*stored.event_type, stored.event_version),
        ("UserRegistered", 3)
    );
    assert_eq!(text(&stored), text(&appended(&event())));
    assert_eq!(Boxed::decode(&stored).unwrap(), boxed);
    assert_eq!(*Box::<UserRegistered>::decode(&stored).unwrap(), event());

    let first = self::stored("UserRegistered", 1, r#"{"mail":"ada@example.com"}"#);
    let Boxed::Registered(read) = Boxed::decode(&first).unwrap();
    assert_eq!(read.email, "ada@example.com");
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "User", version = 1, upcast(0 = UnversionedRename))]
struct NameChanged {
    name: String,
}

#[derive(Deserialize)]
struct UnversionedRename {
    nick: String,
}

impl From<UnversionedRename> for NameChanged {
    fn from(old: UnversionedRename) -> Self {
        Self { name: old.nick }
    }
}

#[test]
fn version_0_counts_as_the_first_version() {
    let address = stored("AddressChanged", 0, r#"{"lines":[]}"#);
    assert_eq!(
        UserEvent::decode(&address).unwrap(),
        UserEvent::AddressChanged(Address { lines: vec![] })
    );
    let registered = stored("UserRegistered", 0, r#"{"mail":"ada@example.com"}"#);
    let read = UserRegistered::decode(&registered).unwrap();
    assert_eq!(read.email, "ada@example.com");
    let moved = stored("Moved", 0, r#"{"city":"Turin"}"#);
    assert!(matches!(
        UserEvent::decode(&moved).unwrap(),
        UserEvent::Moved { .. }
    ));
}

#[test]
fn version_0_may_have_a_format_of_its_own() {
    let unversioned = NameChanged::decode(&stored("NameChanged", 0, r#"{"nick":"Ada"}"#));
    let first = NameChanged::decode(&stored("NameChanged", 1, r#"{"name":"Ada"}"#));
    assert_eq!(unversioned.unwrap(), first.unwrap());
}

#[test]
fn an_unreadable_version_gets_advice_that_compiles() {
    let error = |version| {
        let event = stored("UserRenamed", version, "{}");
        UserEvent::decode(&event).unwrap_err().to_string()
    };
    assert!(error(0).ends_with("the current version is 2; add `upcast(1 = …)` to read this one"));
    assert!(error(-1).ends_with("a version cannot be negative; correct the event"));
}

#[derive(Event, Debug, PartialEq)]
#[event(aggregate = "User", version = 2)]
struct UserDeleted;

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "User")]
struct Score(u32);

#[derive(Event, Debug, PartialEq)]
#[event(aggregate = "User")]
enum Scored {
    Score(u32),
}

#[test]
fn a_struct_and_a_variant_have_the_same_payload() {
    let deleted = appended(&UserDeleted);
    assert_eq!(text(&deleted), text(&appended(&UserEvent::Deleted)));
    assert_eq!((text(&deleted), deleted.event_version), ("{}", 2));
    for payload in ["", "{}", "null"] {
        let event = stored("UserDeleted", 1, payload);
        assert_eq!(UserDeleted::decode(&event).unwrap(), UserDeleted);
    }

    let score = appended(&Score(5));
    assert_eq!(text(&score), text(&appended(&Scored::Score(5))));
    assert_eq!(text(&score), "5");
    assert_eq!(Score::decode(&score).unwrap(), Score(5));
    assert_eq!(Scored::decode(&score).unwrap(), Scored::Score(5));
}

mod upcasts {
    use serde_json::Value;

    use super::{Boxes, Price, Shipped};

    pub(super) fn in_cents(old: Value) -> Result<Value, String> {
        let euros = old["euros"].as_i64().ok_or("no euros")?;
        Ok(serde_json::json!({ "cents": euros * 100 }))
    }

    pub(super) fn with_currency(old: Value) -> Price {
        let cents = old["cents"].as_i64().unwrap_or_default();
        let currency = "EUR".into();
        Price { cents, currency }
    }

    pub(super) fn shipped(old: Value) -> Result<Shipped, serde_json::Error> {
        let Value::String(carrier) = old else {
            return serde_json::from_value(old);
        };
        Ok(Shipped::Sent { carrier })
    }

    pub(super) fn boxes(old: Value) -> Boxes {
        let count = old.as_u64().unwrap_or_default();
        Boxes { count }
    }
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "Order", version = 3, upcast(1 = upcasts::in_cents, 2 = upcasts::with_currency))]
struct Price {
    cents: i64,
    currency: String,
}

#[derive(Deserialize)]
struct BoxesV1 {
    boxes: Vec<String>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Boxes {
    count: u64,
}

impl From<BoxesV1> for Value {
    fn from(old: BoxesV1) -> Self {
        old.boxes.len().into()
    }
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "Order")]
enum Shipped {
    #[event(version = 2, upcast(1 = upcasts::shipped))]
    Sent { carrier: String },
    #[event(version = 3, upcast(1 = BoxesV1, 2 = upcasts::boxes))]
    Packed(Box<Boxes>),
}

fn of_order(event_type: &str, version: i32, payload: &str) -> PersistedEvent {
    PersistedEvent::new(EventRecord {
        aggregate_type: "Order".into(),
        event_type: event_type.into(),
        event_version: version,
        payload: payload.to_owned().into(),
        ..EventRecord::default()
    })
}

#[test]
fn old_versions_are_read_by_functions_through_all_later_ones() {
    for (version, payload) in [
        // Writers without versions leave 0.
        (0, r#"{"euros":5}"#),
        (1, r#"{"euros":5}"#),
        (2, r#"{"cents":500}"#),
        (3, r#"{"cents":500,"currency":"EUR"}"#),
    ] {
        let price = Price::decode(&of_order("Price", version, payload)).unwrap();
        assert_eq!((price.cents, &*price.currency), (500, "EUR"));
    }
}

#[test]
fn functions_and_types_read_the_versions_of_a_variant() {
    let sent = Shipped::decode(&of_order("Sent", 1, "\"DHL\"")).unwrap();
    let carrier = "DHL".into();
    assert_eq!(sent, Shipped::Sent { carrier });
    for (version, payload) in [
        (1, r#"{"boxes":["a","b"]}"#),
        (2, "2"),
        (3, r#"{"count":2}"#),
    ] {
        let packed = Shipped::decode(&of_order("Packed", version, payload)).unwrap();
        assert_eq!(packed, Shipped::Packed(Box::new(Boxes { count: 2 })));
    }
}

#[test]
fn the_error_of_a_function_is_that_of_the_event() {
    let error = Price::decode(&of_order("Price", 1, "{}")).unwrap_err();
    assert_eq!(error.path(), None);
    assert_eq!(
        HandlerError::from(error).to_string(),
        "cannot decode the event `Price`, version 1, at position 1: \
         the function in `upcast(…)` failed: no euros"
    );
    let error = Price::decode(&of_order("Price", 1, "x")).unwrap_err();
    assert!(error.to_string().ends_with("in the payload"), "{error}");
}

#[test]
fn a_box_of_an_event_is_an_event_everywhere() {
    fn is_an_aggregate<A: Aggregate>() {}
    is_an_aggregate::<Box<Shipped>>();
    let boxed = Box::new(Shipped::Sent {
        carrier: "DHL".into(),
    });
    let stored = appended(&boxed);
    assert_eq!(&*stored.event_type, "Sent");
    assert_eq!(Box::<Shipped>::decode(&stored).unwrap(), boxed);
}
