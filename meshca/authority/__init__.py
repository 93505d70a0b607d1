"""The certificate authority: issue, revoke, suspend, CRLs, audit. Owns the ports it needs."""
