"""The benchmark table of scripts/bench: one module per family of rows, peers beside ours in the same run."""
