//! Where a watcher of events is: after the event of a number, which is known again by its name. Pure.
//!
//! A number alone would do until a store is lost: then another event has it.

use ves_proto::api as pb;

/// The place after an event; the default is before all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Its number; 0: before all.
    pub number: u64,
    /// Its name without the collection's.
    id: String,
}

impl Place {
    /// The place after an event.
    pub fn after(number: u64, event: &pb::Event) -> Self {
        let id = event.name.strip_prefix("events/").unwrap_or(&event.name).to_owned();
        Self { number, id }
    }

    /// Reads a token; none where it is none of ours.
    pub fn parse(token: &str) -> Option<Self> {
        let (number, id) = token.strip_prefix('e')?.split_once('-')?;
        let number = u64::from_str_radix(number, 16).ok()?;
        let known = id.parse::<uuid::Uuid>().is_ok() || (number == 0 && id.is_empty());
        known.then(|| Self { number, id: id.to_owned() })
    }

    /// The token that leads here.
    pub fn token(&self) -> String {
        format!("e{:x}-{}", self.number, self.id)
    }

    /// Whether the event of its number is the one that was meant.
    pub fn is_after(&self, number: u64, event: &pb::Event) -> bool {
        *self == Self::after(number, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back_and_to_its_event_only() {
        let event = |id: u128| pb::Event {
            name: format!("events/{}", uuid::Uuid::from_u128(id)),
            ..pb::Event::default()
        };
        let place = Place::after(255, &event(7));
        assert_eq!(Place::parse(&place.token()), Some(place.clone()));
        assert!(place.is_after(255, &event(7)));
        assert!(!place.is_after(255, &event(8)), "another store's");
        assert!(!place.is_after(254, &event(7)));
        assert_eq!(Place::parse(&Place::default().token()), Some(Place::default()));
        for bad in ["", "e", "e0", "e1-", "ex-", "7", "e0-x", "é"] {
            assert_eq!(Place::parse(bad), None, "{bad:?}");
        }
    }
}
