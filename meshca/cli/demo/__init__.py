"""What `meshca demo` runs: a small mesh of real Envoys, watched while it is led through its life."""
