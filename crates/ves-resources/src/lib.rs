//! Control groups, limits and accounting.
