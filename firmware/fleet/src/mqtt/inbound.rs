//! Walk 3, step 6: what the broker delivers. All of it is hostile before it is checked; the checks take constant work.

use fleet_protocol::payload::{Ack, Ctl};
use fleet_protocol::strict::TO_BOX_MAX;
use fleet_protocol::topic::GroupDocument;
use fleet_protocol::{BoxId, FleetId, Leaf, Topic};

/// What a message from outside asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// The controller stored records.
    Ack(Ack),
    /// Send the birth documents and everything unacknowledged again.
    Rebirth,
    /// A signed order; nothing of it was checked but where it came.
    Order(String, Vec<u8>),
    /// A campaign and its pace; nothing of it was checked.
    Roll(Vec<u8>),
    /// A controller came, went, or changed its hints.
    Controller(Ctl),
    /// A retained document of a later feature; not for us yet.
    Ignored,
    /// Malformed, not for this box, or an order that is not signed.
    Refused(&'static str),
}

/// Read one message.
pub(crate) fn read(fleet: &FleetId, box_id: &BoxId, topic: &[u8], payload: &[u8]) -> Inbound {
    if payload.len() > TO_BOX_MAX {
        return Inbound::Refused("size");
    }
    let Ok(topic) = std::str::from_utf8(topic).map_err(|_| ()).and_then(|text| Topic::parse(text).map_err(|_| ()))
    else {
        return Inbound::Refused("topic");
    };
    match topic {
        Topic::Controller { fleet: of, .. } if of == *fleet => match Ctl::parse(payload) {
            Ok(ctl) => Inbound::Controller(ctl),
            Err(_) => Inbound::Refused("ctl"),
        },
        Topic::Group { fleet: of, document, .. } if of == *fleet => match document {
            // An empty one is a campaign that was taken away.
            GroupDocument::Roll if !payload.is_empty() => Inbound::Roll(payload.to_vec()),
            GroupDocument::Roll | GroupDocument::Want => Inbound::Ignored,
        },
        Topic::Box { fleet: of, id, leaf } if of == *fleet && id == *box_id => match leaf {
            Leaf::Ack => match Ack::parse(payload) {
                Ok(ack) => Inbound::Ack(ack),
                Err(_) => Inbound::Refused("ack"),
            },
            // Asks only for what is sent anyway, so it needs no signature; how often is limited by the link.
            Leaf::Command(op) if op == "rebirth" => Inbound::Rebirth,
            Leaf::Command(op) if crate::orders::KNOWN.contains(&op.as_str()) => Inbound::Order(op, payload.to_vec()),
            Leaf::Command(_) => Inbound::Refused("unknown order"),
            Leaf::Want => Inbound::Ignored,
            Leaf::State
            | Leaf::Info
            | Leaf::Reported
            | Leaf::Tele(_)
            | Leaf::Event(_)
            | Leaf::Result(_)
            | Leaf::Log(_) => Inbound::Refused("topic"),
        },
        Topic::Controller { .. } | Topic::Group { .. } | Topic::Box { .. } => Inbound::Refused("foreign"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(topic: &str, payload: &str) -> Inbound {
        let box_id = BoxId::new("box-7f3a9c2e41d05b68").unwrap();
        read(&FleetId::new("acme").unwrap(), &box_id, topic.as_bytes(), payload.as_bytes())
    }

    #[test]
    fn an_acknowledgement_a_rebirth_and_a_controller_are_understood() {
        let own = "millrace/v1/acme/box-7f3a9c2e41d05b68";
        let ack = read_as(&format!("{own}/ack"), r#"{"v":1,"e":"9c1f02aa","A":5,"srv":"main"}"#);
        assert!(matches!(ack, Inbound::Ack(ack) if ack.events == Some(5)));
        assert_eq!(read_as(&format!("{own}/cmd/rebirth"), "{}"), Inbound::Rebirth);
        let ctl = read_as("millrace/v1/acme/_ctl/main", r#"{"v":1,"on":true,"srv":"main","n":2}"#);
        assert!(matches!(ctl, Inbound::Controller(ctl) if ctl.on));
    }

    #[test]
    fn other_boxes_other_fleets_and_unsigned_orders_are_refused() {
        let own = "millrace/v1/acme/box-7f3a9c2e41d05b68";
        assert_eq!(read_as(&format!("{own}/cmd/reboot"), "{}"), Inbound::Refused("unknown order"));
        assert_eq!(read_as(&format!("{own}/ack"), "{"), Inbound::Refused("ack"));
        assert_eq!(read_as(&format!("{own}/state"), "{}"), Inbound::Refused("topic"));
        assert_eq!(read_as("millrace/v1/acme/box-0000000000000000/ack", "{}"), Inbound::Refused("foreign"));
        assert_eq!(read_as("millrace/v1/other/_ctl/main", "{}"), Inbound::Refused("foreign"));
        assert_eq!(read_as("x", "{}"), Inbound::Refused("topic"));
        assert_eq!(read_as(&format!("{own}/ack"), &" ".repeat(TO_BOX_MAX + 1)), Inbound::Refused("size"));
    }
}
