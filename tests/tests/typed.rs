//! Events as Rust types: how they are written, and how old and new ones are read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unused_async,
    missing_docs
)]

use consumer::{Aggregate, Event, EventRecord, HandlerError, NewEvent, PersistedEvent};
use serde::{Deserialize, Serialize};

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
fn old_versions_are_read_through_each_that_came_after() {
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
fn a_version_from_the_future_is_an_error_that_says_so() {
    let error = UserRegistered::decode(&stored("UserRegistered", 4, "{}")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode the event `UserRegistered`, version 4, at position 17: \
         this program knows versions up to 3; deploy the one that appended it"
    );
    let error = UserEvent::decode(&stored("UserRenamed", 1, "{}")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode the event `UserRenamed`, version 1, at position 17: \
         the current version is 2; say how to read this one with `upcast(1 = …)`"
    );
}

#[test]
fn an_event_of_another_type_and_a_payload_that_goes_on_are_errors() {
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
fn a_type_reads_no_event_that_it_does_not_stand_for() {
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
