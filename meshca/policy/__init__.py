"""Who may call whom, and who may hold which identity. Pure."""
