//! Makes a store of this build and keeps it in `tests/fixtures`, for later releases to upgrade from, under
//! the name that is given. See `ves_sim::kept`.

use std::io::{Error, Write};

fn main() -> std::io::Result<()> {
    let name = std::env::args().nth(1).ok_or_else(|| Error::other("usage: keep-store NAME"))?;
    let path = ves_sim::kept::keep(&name);
    writeln!(std::io::stdout(), "{}", path.display())
}
