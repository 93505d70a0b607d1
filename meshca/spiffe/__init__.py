"""SPIFFE IDs, trust domains and bundle formats. Pure."""
