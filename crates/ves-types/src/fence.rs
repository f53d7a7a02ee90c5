//! Who a decision speaks for and how new it is.
//!
//! Never here: which of two decisions is refused; that rule is in `ves-daemon`'s `fence`.

use serde::{Deserialize, Serialize};

use crate::id::{CtId, Epoch, Generation};

/// Who a mutating call speaks for, and how new its decision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The container.
    pub ct: CtId,
    /// How new the decision is.
    pub generation: Generation,
    /// Whose ownership it stands for.
    pub epoch: Epoch,
}
