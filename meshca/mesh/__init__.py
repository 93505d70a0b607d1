"""The App Mesh model, its input forms and the reference graph. Pure."""
