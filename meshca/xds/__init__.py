"""The subscription state machine and its streams. Knows no mesh and no CA."""
