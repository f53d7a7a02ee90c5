//! What a kernel holds, to be kept in a file: what a stored state of the coordinator belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use ves_types::layout::Daemon;
use ves_types::{Epoch, Generation};

use super::{Ct, Kernel, State};

/// What a kernel and its services hold. Scripts and the log are no part of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct World {
    /// Templates by name.
    pub templates: BTreeSet<String>,
    /// See [`State::stiff`].
    pub stiff: bool,
    /// Containers by id.
    pub cts: BTreeMap<u32, Ct>,
    /// What services have accepted: by service and container, the generation and the epoch.
    pub fences: BTreeMap<String, BTreeMap<u32, (Generation, Epoch)>>,
}

impl Kernel {
    /// What it holds now.
    pub fn world(&self) -> World {
        let state = self.state();
        let mut fences: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        for ((service, ct), fence) in &state.fences {
            fences.entry(service.name().to_owned()).or_default().insert(*ct, *fence);
        }
        let (templates, cts) = (state.templates.clone(), state.cts.clone());
        World { templates, stiff: state.stiff, cts, fences }
    }

    /// One that holds this.
    pub fn of(world: World) -> Self {
        let World { templates, stiff, cts, fences } = world;
        let mut state = State { templates, stiff, cts, ..State::default() };
        for service in Daemon::ALL {
            for (ct, fence) in fences.get(service.name()).into_iter().flatten() {
                state.fences.insert((service, *ct), *fence);
            }
        }
        Self { state: Mutex::new(state), ..Self::default() }
    }
}

/// Messages as their bytes on the wire, in hexadecimal: these stay readable as the protocol grows.
pub(super) mod wire {
    use prost::Message;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    fn hex(message: &impl Message) -> String {
        message.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect()
    }

    fn message<M: Message + Default, E: Error>(text: &str) -> Result<M, E> {
        let digits = text.as_bytes().chunks(2);
        let byte = |d| std::str::from_utf8(d).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
        let bytes: Option<Vec<u8>> = digits.map(byte).collect();
        let bytes = bytes.ok_or_else(|| E::custom("no bytes in hexadecimal"))?;
        M::decode(bytes.as_slice()).map_err(E::custom)
    }

    pub(in super::super) fn serialize<M: Message, S: Serializer>(
        message: &M,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(message))
    }

    pub(in super::super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        from: D,
    ) -> Result<M, D::Error> {
        message(&String::deserialize(from)?)
    }

    /// The same where there may be none.
    pub(in super::super) mod option {
        use super::{Deserialize, Deserializer, Message, Serializer, hex, message};

        pub(in super::super::super) fn serialize<M: Message, S: Serializer>(
            message: &Option<M>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match message {
                Some(message) => to.serialize_some(&hex(message)),
                None => to.serialize_none(),
            }
        }

        pub(in super::super::super) fn deserialize<
            'de,
            M: Message + Default,
            D: Deserializer<'de>,
        >(
            from: D,
        ) -> Result<Option<M>, D::Error> {
            Option::<String>::deserialize(from)?.map(|text| message(&text)).transpose()
        }
    }
}
