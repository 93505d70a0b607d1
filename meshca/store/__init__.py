"""The database: ledger, meshes, registrations, acknowledgements, revisions, audit; SQLite and PostgreSQL alike."""
