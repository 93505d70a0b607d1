"""Profiles, lints, certificate and CRL building, chain checking. Pure."""
