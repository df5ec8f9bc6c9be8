//! The forms of actions, and what they send.

use maud::{Markup, html};
use serde::Deserialize;

use super::options::ActionKind;
use super::urls::Base;
use crate::backend::ConsumerId;

/// The fields that the form of an action sends.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Sent {
    pub(super) token: Option<String>,
    position: Option<i64>,
    #[serde(default)]
    accept: bool,
}

impl Sent {
    /// The action of a name, as this form completes it; `None` if there is none.
    pub(super) fn action(&self, name: &str) -> Option<ActionKind> {
        Some(match name {
            "pause" => ActionKind::Pause,
            "resume" => ActionKind::Resume,
            "park" => ActionKind::Park {
                position: self.position?,
            },
            "skip" => ActionKind::Skip {
                position: self.position?,
            },
            "retry-parked" => ActionKind::RetryParked {
                position: self.position,
            },
            "skip-parked" => ActionKind::SkipParked {
                position: self.position?,
            },
            "rebuild" => ActionKind::Rebuild {
                discard_parked: self.accept,
            },
            "activate" => ActionKind::Activate { force: self.accept },
            "accept-scope" => ActionKind::AcceptScope,
            "forget" => ActionKind::Forget {
                discard_parked: self.accept,
            },
            _ => return None,
        })
    }
}

/// The forms of some actions.
pub(super) fn forms(
    base: &Base,
    consumer: &ConsumerId,
    token: &str,
    kinds: &[ActionKind],
) -> Markup {
    html! {
        div.actions {
            @for kind in kinds { (form(base, consumer, token, *kind)) }
        }
    }
}

/// The form of one action. What cannot be undone is explained before its button appears.
pub(super) fn form(base: &Base, consumer: &ConsumerId, token: &str, kind: ActionKind) -> Markup {
    let address = base.of_consumer(consumer, kind.name());
    let fields = html! {
        input type="hidden" name="token" value=(token);
        @if let Some(position) = position(kind) {
            input type="hidden" name="position" value=(position);
        }
    };
    let label = label(kind);
    let Some(warning) = warning(kind) else {
        return html! {
            form method="post" action=(address) { (fields) button { (label) } }
        };
    };
    html! {
        details.confirm {
            summary { (label) "…" }
            form method="post" action=(address) {
                (fields)
                p { (warning) }
                @if let Some(accepted) = acceptable(kind) {
                    label.check { input type="checkbox" name="accept" value="true"; " " (accepted) }
                }
                button.danger { (label) }
            }
        }
    }
}

fn position(kind: ActionKind) -> Option<i64> {
    match kind {
        ActionKind::Park { position }
        | ActionKind::Skip { position }
        | ActionKind::SkipParked { position } => Some(position),
        ActionKind::RetryParked { position } => position,
        _ => None,
    }
}

fn label(kind: ActionKind) -> String {
    match kind {
        ActionKind::Pause => "Pause".to_owned(),
        ActionKind::Resume => "Resume".to_owned(),
        ActionKind::Park { position } => format!("Park event {position}"),
        ActionKind::Skip { position } | ActionKind::SkipParked { position } => {
            format!("Skip event {position}")
        }
        ActionKind::RetryParked { position: None } => "Retry all parked events".to_owned(),
        ActionKind::RetryParked { position: Some(_) } => "Retry this aggregate".to_owned(),
        ActionKind::Rebuild { .. } => "Rebuild".to_owned(),
        ActionKind::Activate { .. } => "Activate this version".to_owned(),
        ActionKind::AcceptScope => "Accept the scope of the code".to_owned(),
        ActionKind::Forget { .. } => "Forget".to_owned(),
    }
}

/// The loss that an action causes, or its effect on others.
fn warning(kind: ActionKind) -> Option<&'static str> {
    match kind {
        ActionKind::Skip { .. } | ActionKind::SkipParked { .. } => {
            Some("The consumer will never handle this event.")
        }
        ActionKind::Rebuild { .. } => {
            Some("This empties the read model. Workers then handle all events again, as a replay.")
        }
        ActionKind::Activate { .. } => {
            Some("Queries of the read model will be answered by this version.")
        }
        ActionKind::AcceptScope => Some(
            "Earlier events of types that are new in the scope will not be handled; a rebuild handles them.",
        ),
        ActionKind::Forget { .. } => {
            Some("This removes the checkpoint, and the table if the library maintains it.")
        }
        _ => None,
    }
}

/// The consequence that a reader may accept in addition.
fn acceptable(kind: ActionKind) -> Option<&'static str> {
    match kind {
        ActionKind::Rebuild { .. } => Some("Parked events are delivered again as new ones"),
        ActionKind::Forget { .. } => Some("Parked events may never be handled"),
        ActionKind::Activate { .. } => {
            Some("Activate it even if it is behind or has parked events")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Sent;
    use crate::dashboard::options::ActionKind;

    #[test]
    fn a_form_sends_the_action_that_it_is_for() {
        for kind in [
            ActionKind::Pause,
            ActionKind::Resume,
            ActionKind::Park { position: 7 },
            ActionKind::Skip { position: 7 },
            ActionKind::RetryParked { position: None },
            ActionKind::RetryParked { position: Some(7) },
            ActionKind::SkipParked { position: 7 },
            ActionKind::Rebuild {
                discard_parked: true,
            },
            ActionKind::Activate { force: true },
            ActionKind::AcceptScope,
            ActionKind::Forget {
                discard_parked: true,
            },
        ] {
            let sent = Sent {
                token: None,
                position: super::position(kind),
                accept: true,
            };
            assert_eq!(sent.action(kind.name()), Some(kind));
        }
        assert_eq!(Sent::default().action("park"), None, "without a position");
        assert_eq!(Sent::default().action("drop"), None);
    }
}
