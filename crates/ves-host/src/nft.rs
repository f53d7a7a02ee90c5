//! nftables rulesets, applied in one transaction.
