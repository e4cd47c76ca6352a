//! Where messages go: the topic tree `millrace/v1/<fleet>/<box>/<class>/…`, parsed and formatted in one place.
//!
//! At most six slashes and 128 bytes, so that every broker takes it and an access rule is one line.

use std::fmt;

use crate::event::Severity;
use crate::name::{BoxId, FleetId};
use crate::registry::Class;

/// First two levels of every topic.
pub const PREFIX: &str = "millrace/v1";
/// Longest topic in bytes.
pub const TOPIC_MAX: usize = 128;

/// A topic of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Below one box.
    Box {
        /// Its fleet, as the topic claims it; the controller holds it against the enrolment.
        fleet: FleetId,
        /// The box.
        id: BoxId,
        /// What about it.
        leaf: Leaf,
    },
    /// A controller's presence and policy.
    Controller {
        /// The fleet it serves.
        fleet: FleetId,
        /// Its name.
        name: FleetId,
    },
    /// A signed document for a group of boxes.
    Group {
        /// The fleet.
        fleet: FleetId,
        /// The group, `all` or a ring.
        group: FleetId,
        /// Which document.
        document: GroupDocument,
    },
}

/// What stands behind the box in a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// Presence, retained; also the Will.
    State,
    /// Birth certificate.
    Info,
    /// Reported configuration.
    Reported,
    /// Telemetry of one class.
    Tele(Class),
    /// An event of one severity.
    Event(Severity),
    /// Progress of one command.
    Result(String),
    /// Log excerpt asked for by one command.
    Log(String),
    /// A command.
    Command(String),
    /// Signed desired configuration.
    Want,
    /// Application-level acknowledgement.
    Ack,
}

/// The two documents of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupDocument {
    /// Desired configuration.
    Want,
    /// Rollout.
    Roll,
}

/// Why a topic was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Over [`TOPIC_MAX`] bytes.
    #[error("topic is longer than {TOPIC_MAX} bytes")]
    TooLong,
    /// Not below `millrace/v1`.
    #[error("topic is outside millrace/v1")]
    Foreign,
    /// A fleet, box, group or command name is malformed.
    #[error("topic holds a malformed name")]
    Name,
    /// No such branch.
    #[error("topic names no known branch")]
    Branch,
}

impl Topic {
    /// A topic below one box.
    #[must_use]
    pub fn of_box(fleet: &FleetId, id: &BoxId, leaf: Leaf) -> Self {
        Topic::Box { fleet: fleet.clone(), id: id.clone(), leaf }
    }

    /// Read a topic as it came from the broker.
    ///
    /// # Errors
    /// [`TopicError`] says which rule it breaks; wildcards are never part of a topic.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.len() > TOPIC_MAX {
            return Err(TopicError::TooLong);
        }
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/')).ok_or(TopicError::Foreign)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let (fleet, parts) = parts.split_first().ok_or(TopicError::Branch)?;
        let fleet = FleetId::new(*fleet).map_err(|_| TopicError::Name)?;
        match parts {
            ["_ctl", name] => {
                let name = FleetId::new(*name).map_err(|_| TopicError::Name)?;
                Ok(Topic::Controller { fleet, name })
            }
            ["_g", group, document] => {
                let group = FleetId::new(*group).map_err(|_| TopicError::Name)?;
                let document = match *document {
                    "want" => GroupDocument::Want,
                    "roll" => GroupDocument::Roll,
                    _ => return Err(TopicError::Branch),
                };
                Ok(Topic::Group { fleet, group, document })
            }
            [id, leaf @ ..] => {
                let id = BoxId::new(*id).map_err(|_| TopicError::Name)?;
                Ok(Topic::Box { fleet, id, leaf: Leaf::parse(leaf)? })
            }
            [] => Err(TopicError::Branch),
        }
    }
}

impl Leaf {
    fn parse(parts: &[&str]) -> Result<Self, TopicError> {
        Ok(match parts {
            ["state"] => Leaf::State,
            ["info"] => Leaf::Info,
            ["rep"] => Leaf::Reported,
            ["want"] => Leaf::Want,
            ["ack"] => Leaf::Ack,
            ["tele", class] => Leaf::Tele(Class::parse(class).ok_or(TopicError::Branch)?),
            ["event", severity] => Leaf::Event(Severity::parse(severity).ok_or(TopicError::Branch)?),
            ["res", cid] if is_cid(cid) => Leaf::Result((*cid).to_owned()),
            ["log", cid] if is_cid(cid) => Leaf::Log((*cid).to_owned()),
            ["cmd", op] if is_op(op) => Leaf::Command((*op).to_owned()),
            ["res" | "log" | "cmd", _] => return Err(TopicError::Name),
            _ => return Err(TopicError::Branch),
        })
    }
}

/// A command word: `[a-z][a-z0-9-]{1,23}`.
pub(crate) fn is_op(text: &str) -> bool {
    (2..=24).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A command id: a UUID in its usual form.
pub(crate) fn is_cid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Controller { fleet, name } => write!(f, "{PREFIX}/{fleet}/_ctl/{name}"),
            Topic::Group { fleet, group, document } => {
                let document = match document {
                    GroupDocument::Want => "want",
                    GroupDocument::Roll => "roll",
                };
                write!(f, "{PREFIX}/{fleet}/_g/{group}/{document}")
            }
            Topic::Box { fleet, id, leaf } => {
                write!(f, "{PREFIX}/{fleet}/{id}/")?;
                match leaf {
                    Leaf::State => f.write_str("state"),
                    Leaf::Info => f.write_str("info"),
                    Leaf::Reported => f.write_str("rep"),
                    Leaf::Want => f.write_str("want"),
                    Leaf::Ack => f.write_str("ack"),
                    Leaf::Tele(class) => write!(f, "tele/{}", class.key()),
                    Leaf::Event(severity) => write!(f, "event/{}", severity.key()),
                    Leaf::Result(cid) => write!(f, "res/{cid}"),
                    Leaf::Log(cid) => write!(f, "log/{cid}"),
                    Leaf::Command(op) => write!(f, "cmd/{op}"),
                }
            }
        }
    }
}

/// The filters a box subscribes to, in one SUBSCRIBE.
#[must_use]
pub fn box_filters(fleet: &FleetId, id: &BoxId, ring: &FleetId) -> Vec<String> {
    let own = format!("{PREFIX}/{fleet}/{id}");
    let mut filters = vec![
        format!("{own}/cmd/+"),
        format!("{own}/want"),
        format!("{own}/ack"),
        format!("{PREFIX}/{fleet}/_g/all/+"),
        format!("{PREFIX}/{fleet}/_ctl/+"),
    ];
    if ring.as_str() != "all" {
        filters.push(format!("{PREFIX}/{fleet}/_g/{ring}/+"));
    }
    filters
}

/// The filters a controller subscribes to: what the boxes of its fleet send.
#[must_use]
pub fn controller_filters(fleet: &FleetId) -> Vec<String> {
    ["state", "info", "rep", "tele/+", "event/+", "res/+"]
        .iter()
        .map(|leaf| format!("{PREFIX}/{fleet}/+/{leaf}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_leaf() -> impl Strategy<Value = Leaf> {
        let cid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
        prop_oneof![
            Just(Leaf::State),
            Just(Leaf::Info),
            Just(Leaf::Reported),
            Just(Leaf::Want),
            Just(Leaf::Ack),
            proptest::sample::select(Class::ALL.to_vec()).prop_map(Leaf::Tele),
            proptest::sample::select(Severity::ALL.to_vec()).prop_map(Leaf::Event),
            cid.prop_map(Leaf::Result),
            cid.prop_map(Leaf::Log),
            "[a-z][a-z0-9-]{1,23}".prop_map(Leaf::Command),
        ]
    }

    proptest! {
        #[test]
        fn every_topic_survives_format_and_parse(fleet in "[a-z0-9-]{1,24}", hex in "[0-9a-f]{16}", leaf in any_leaf()) {
            let topic = Topic::Box {
                fleet: FleetId::new(fleet).unwrap(),
                id: BoxId::new(format!("box-{hex}")).unwrap(),
                leaf,
            };
            let text = topic.to_string();
            prop_assert!(text.len() <= TOPIC_MAX);
            prop_assert!(text.matches('/').count() <= 6);
            prop_assert_eq!(Topic::parse(&text), Ok(topic));
        }

        #[test]
        fn parse_of_any_text_never_panics_and_only_accepts_what_it_would_print(text in "(millrace/v1/)?[a-z_/+#0-9-]{0,60}") {
            if let Ok(topic) = Topic::parse(&text) {
                prop_assert_eq!(topic.to_string(), text);
            }
        }
    }

    #[test]
    fn controller_and_group_topics_round_trip() {
        for text in ["millrace/v1/acme/_ctl/main", "millrace/v1/acme/_g/all/want", "millrace/v1/acme/_g/r1/roll"] {
            assert_eq!(Topic::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn wildcards_and_foreign_trees_are_refused() {
        let long = format!("millrace/v1/{}", "a".repeat(200));
        for (text, why) in [
            ("millrace/v2/acme/box-7f3a9c2e41d05b68/state", TopicError::Foreign),
            ("millrace/v1", TopicError::Foreign),
            ("millrace/v1/acme/+/state", TopicError::Name),
            ("millrace/v1/acme/box-7f3a9c2e41d05b68/#", TopicError::Branch),
            ("millrace/v1/acme/box-7f3a9c2e41d05b68/tele/xyz", TopicError::Branch),
            ("millrace/v1/acme/box-7f3a9c2e41d05b68/cmd/X", TopicError::Name),
            ("millrace/v1/acme/_g/all/cmd", TopicError::Branch),
            (long.as_str(), TopicError::TooLong),
        ] {
            assert_eq!(Topic::parse(text), Err(why), "{text}");
        }
    }
}
