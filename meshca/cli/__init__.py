"""The command line: one click module per noun."""
