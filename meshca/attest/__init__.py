"""Who is calling: Unix peer credentials."""
