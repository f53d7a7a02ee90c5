//! Mounts by file descriptor: `openat2`, `open_tree`, `move_mount`, `mount_setattr`, `fsopen`.
