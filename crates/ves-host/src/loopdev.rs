//! Loop devices: attach, detach, grow, find by backing file.
