//! ext4 images: make, grow online, inspect.
