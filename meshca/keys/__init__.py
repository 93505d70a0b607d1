"""Signers: where the private keys of CAs live."""
