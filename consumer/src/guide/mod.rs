//! Guides, one a task: from the first consumer to many processes.
//!
//! | guide | for whom |
//! |---|---|
//! | [`declaring`] | who writes a consumer |
//! | [`running`] | who starts it |
//! | [`failing`] | who decides what follows an error |
//! | [`rebuilding`] | who changes a read model |
//! | [`scaling`] | who needs more than one process, or more speed |
//! | [`testing`] | who writes the tests |
//! | [`from_polling`] | who has a polling loop and a checkpoint table |
//! | [`from_eventsalsa`] | who runs the Go worker on the same tables |
//! | [`frontier`] | who wants to know why nothing is lost, and what that rests on |
//! | [`architecture`] | who wants to read the code |

#[doc = include_str!("declaring.md")]
pub mod declaring {}
#[doc = include_str!("running.md")]
pub mod running {}
#[doc = include_str!("failing.md")]
pub mod failing {}
#[doc = include_str!("rebuilding.md")]
pub mod rebuilding {}
#[doc = include_str!("scaling.md")]
pub mod scaling {}
#[doc = include_str!("testing.md")]
pub mod testing {}
#[doc = include_str!("from_polling.md")]
pub mod from_polling {}
#[doc = include_str!("from_eventsalsa.md")]
pub mod from_eventsalsa {}
#[doc = include_str!("frontier.md")]
pub mod frontier {}
#[doc = include_str!("architecture.md")]
pub mod architecture {}
