"""Schema migrations, run by store/migrate.py."""
