//! The pages: what each asks for, and how it looks.

pub(super) mod consumer;
pub(super) mod event;
pub(super) mod events;
pub(super) mod failure;
pub(super) mod layout;
pub(super) mod overview;
pub(super) mod parked;
pub(super) mod processes;
