"""Generated from protos/meshca/v1 by scripts/protos. Do not edit."""
