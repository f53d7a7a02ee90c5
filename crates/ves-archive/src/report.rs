//! What the confined process says of its end to the one who feeds it.

use serde::{Deserialize, Serialize};

use crate::contents::Contents;
use crate::refused::{Entries, Refused};

/// The report of the confined process, its last line on the error output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Done(Option<Contents>),
    Bad { entry: String, why: String },
    TooLarge { entry: String, limit: String },
    Entries(Entries),
    NoRoom,
    Failed { what: String, errno: i32 },
}

impl From<Refused> for Report {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Bad { entry, why } => Self::Bad { entry, why },
            Refused::TooLarge { entry, limit } => Self::TooLarge { entry, limit },
            Refused::Entries(entries) => Self::Entries(entries),
            Refused::NoRoom => Self::NoRoom,
            Refused::Io { what, source } => {
                let errno = source.raw_os_error().unwrap_or_default();
                let what = if errno == 0 { format!("{what}: {source}") } else { what };
                Self::Failed { what, errno }
            }
            Refused::Host(error) => {
                Self::Failed { what: error.to_string(), errno: error.errno().unwrap_or_default() }
            }
        }
    }
}
