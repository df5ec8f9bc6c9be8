//! The formats of events that the code of a consumer knows.

use super::handled::{HandlerShape, takers};
use crate::contract::{EventFormat, Handled};

/// The formats of events that the code of a consumer knows: a worker gives it no event of another format.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge {
    /// The types in its scope.
    pub aggregates: &'static [KnownAggregate],
    /// Its handlers.
    pub handlers: &'static [HandlerShape],
    /// The event types that it passes over.
    pub ignored: &'static [&'static str],
}

/// All events of an aggregate, as one type of the code has them.
#[derive(Clone, Copy, Debug)]
pub struct KnownAggregate {
    /// The aggregate type.
    pub aggregate_type: &'static str,
    /// The event types.
    pub event_types: &'static [&'static str],
    /// Which versions of an event type it reads.
    pub reads: fn(&str, i32) -> bool,
}

impl Knowledge {
    /// Whether the code knows what an event of this format means, or says that it does not matter.
    ///
    /// An event type that no type of the code has is known if its aggregate is in the scope by name: then
    /// the consumer takes what it has handlers for, and passes over the rest.
    #[must_use]
    pub fn has(&self, format: EventFormat<'_>) -> bool {
        if self.ignored.contains(&format.event_type) {
            return true;
        }
        let mut takes_undecoded = false;
        for handler in self.handlers {
            match (handler.handled, handler.reads) {
                (Handled::Typed { aggregate, events }, Some(reads))
                    if aggregate == format.aggregate_type
                        && events.contains(&format.event_type) =>
                {
                    return reads(format.event_type, format.event_version);
                }
                (Handled::Named(events), _) if events.contains(&format.event_type) => {
                    takes_undecoded = true;
                }
                _ => {}
            }
        }
        let mut aggregates = self.aggregates.iter();
        let known = aggregates.find(|known| known.aggregate_type == format.aggregate_type);
        match known {
            None => true,
            Some(_) if self.takes_the_rest() => true,
            Some(known) if known.event_types.contains(&format.event_type) => {
                (known.reads)(format.event_type, format.event_version)
            }
            Some(_) => takes_undecoded,
        }
    }

    /// Whether a handler takes the events of a format.
    #[must_use]
    pub fn takes(&self, format: EventFormat<'_>) -> bool {
        !self.takers(format).is_empty()
    }

    /// The handlers that take the events of a format.
    pub(crate) fn takers(&self, format: EventFormat<'_>) -> Vec<&HandlerShape> {
        if self.ignored.contains(&format.event_type) {
            return Vec::new();
        }
        takers(self.handlers, format.aggregate_type, format.event_type)
    }

    fn takes_the_rest(&self) -> bool {
        let mut handlers = self.handlers.iter();
        handlers.any(|handler| matches!(handler.handled, Handled::Rest))
    }

    /// Whether a handler takes every event that no other one takes.
    pub(super) fn takes_all(&self) -> bool {
        let mut handlers = self.handlers.iter();
        handlers.any(|handler| matches!(handler.handled, Handled::Every | Handled::Rest))
    }

    /// Whether all events of an aggregate are those of one type of the code.
    pub(super) fn has_type_of(&self, aggregate_type: &str) -> bool {
        let mut aggregates = self.aggregates.iter();
        aggregates.any(|known| known.aggregate_type == aggregate_type)
    }
}

#[cfg(test)]
mod tests {
    use super::{Knowledge, KnownAggregate};
    use crate::contract::{EventFormat, Handled};
    use crate::registry::handled::{HandlerRows, HandlerShape};

    const fn handler(handled: Handled, reads: Option<fn(&str, i32) -> bool>) -> HandlerShape {
        HandlerShape {
            method: "on",
            file: "file",
            line: 1,
            handled,
            reads,
            rows: HandlerRows::Unsaid,
        }
    }

    const PLACED: HandlerShape = handler(
        Handled::Typed {
            aggregate: "Order",
            events: &["Placed"],
        },
        Some(|_, version| version <= 2),
    );
    const NAMED: HandlerShape = handler(Handled::Named(&["Paid", "Extra"]), None);
    const REST: HandlerShape = handler(Handled::Rest, None);
    const ORDER: KnownAggregate = KnownAggregate {
        aggregate_type: "Order",
        event_types: &["Placed", "Paid"],
        reads: |event_type, version| event_type == "Placed" || version == 1,
    };

    fn has(knowledge: &Knowledge, aggregate_type: &str, event_type: &str, version: i32) -> bool {
        knowledge.has(EventFormat {
            aggregate_type,
            event_type,
            event_version: version,
        })
    }

    #[test]
    fn a_type_in_the_scope_knows_its_events_and_versions_only() {
        let knowledge = Knowledge {
            aggregates: &[ORDER],
            handlers: &[PLACED, NAMED],
            ignored: &["Legacy"],
        };
        for (event_type, version, expected) in [
            ("Placed", 2, true),
            ("Placed", 3, false),
            ("Paid", 1, true),
            ("Paid", 2, false),
            ("Extra", 7, true),
            ("Legacy", 7, true),
            ("Refunded", 1, false),
        ] {
            let known = has(&knowledge, "Order", event_type, version);
            assert_eq!(known, expected, "{event_type} {version}");
        }
        assert!(has(&knowledge, "User", "Refunded", 1));
    }

    #[test]
    fn an_event_is_taken_if_a_handler_takes_it_unless_it_is_ignored() {
        let format = |event_type| EventFormat {
            aggregate_type: "Order",
            event_type,
            event_version: 1,
        };
        for (handlers, of_the_rest) in [
            (&[PLACED, NAMED][..], false),
            (&[PLACED, NAMED, REST][..], true),
        ] {
            let knowledge = Knowledge {
                aggregates: &[],
                handlers,
                ignored: &["Legacy"],
            };
            for (event_type, expected) in [
                ("Placed", true),
                ("Paid", true),
                ("Refunded", of_the_rest),
                ("Legacy", false),
            ] {
                assert_eq!(
                    knowledge.takes(format(event_type)),
                    expected,
                    "{event_type}"
                );
            }
        }
    }

    #[test]
    fn a_handler_of_the_rest_knows_all_but_unreadable_versions() {
        let knowledge = Knowledge {
            aggregates: &[ORDER],
            handlers: &[PLACED, REST],
            ignored: &[],
        };
        assert!(has(&knowledge, "Order", "Refunded", 1));
        assert!(has(&knowledge, "Order", "Paid", 2));
        assert!(!has(&knowledge, "Order", "Placed", 3));
    }

    #[test]
    fn a_scope_by_name_knows_all_but_unreadable_versions() {
        let knowledge = Knowledge {
            aggregates: &[],
            handlers: &[PLACED],
            ignored: &[],
        };
        assert!(has(&knowledge, "Order", "Refunded", 1));
        assert!(!has(&knowledge, "Order", "Placed", 3));
    }
}
