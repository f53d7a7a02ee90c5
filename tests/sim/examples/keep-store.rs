//! Makes a store of this build and keeps it in `tests/fixtures`, for later releases to upgrade from.
//! See `ves_sim::kept`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let path = ves_sim::kept::keep();
    writeln!(std::io::stdout(), "{}", path.display())
}
