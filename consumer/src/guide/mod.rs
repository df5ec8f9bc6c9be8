//! Guides by task, from the first consumer to many processes.
//!
//! | guide | read it to |
//! |---|---|
//! | [`tutorial`] | build a first program, step by step |
//! | [`declaring`] | write a consumer |
//! | [`read_models`] | maintain a table without SQL |
//! | [`running`] | start, stop and watch a worker |
//! | [`failing`] | decide what happens after an error |
//! | [`rebuilding`] | change a read model |
//! | [`scaling`] | run more processes, or handle more events a second |
//! | [`deploying`] | deploy a new release, rename a consumer, and grant roles what they need |
//! | [`personal_data`] | delete personal data from a log that is never changed otherwise |
//! | [`on_call`] | answer an alert, from a stuck consumer to a restored backup |
#![cfg_attr(
    feature = "testing",
    doc = "| [`testing`] | test a consumer, or the whole program |"
)]
//! | [`from_polling`] | replace a polling loop and its checkpoint table |
//! | [`existing_tables`] | use an existing events table, or another program's log |
//! | [`tenants`] | run one worker for each schema of Postgres |
//! | [`between_services`] | bring events from one service's log to another's through a broker |
#![cfg_attr(
    feature = "postgres",
    doc = "| [`from_eventsalsa`] | move from the Go worker to this one, on the same tables |"
)]
//! | [`comparison`] | choose between this library and others |
//! | [`frontier`] | understand why nothing is lost, and what that depends on |
//! | [`architecture`] | find your way in the code |

#[doc = include_str!("tutorial.md")]
pub mod tutorial {}
#[doc = include_str!("declaring.md")]
pub mod declaring {}
#[doc = include_str!("read_models.md")]
pub mod read_models {}
#[doc = include_str!("running.md")]
pub mod running {}
#[doc = include_str!("failing.md")]
pub mod failing {}
#[doc = include_str!("rebuilding.md")]
pub mod rebuilding {}
#[doc = include_str!("scaling.md")]
pub mod scaling {}
#[doc = include_str!("deploying.md")]
pub mod deploying {}
#[doc = include_str!("on_call.md")]
pub mod on_call {}

#[doc = include_str!("personal_data.md")]
pub mod personal_data {}
#[cfg(feature = "testing")]
#[doc = include_str!("testing.md")]
pub mod testing {}
#[doc = include_str!("from_polling.md")]
pub mod from_polling {}
#[doc = include_str!("existing_tables.md")]
pub mod existing_tables {}
#[doc = include_str!("tenants.md")]
pub mod tenants {}
#[doc = include_str!("between_services.md")]
pub mod between_services {}
#[cfg(feature = "postgres")]
#[doc = include_str!("from_eventsalsa.md")]
pub mod from_eventsalsa {}
#[doc = include_str!("comparison.md")]
pub mod comparison {}
#[doc = include_str!("frontier.md")]
pub mod frontier {}
#[doc = include_str!("architecture.md")]
pub mod architecture {}
