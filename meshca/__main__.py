"""`python -m meshca`: the same as the `meshca` command."""

from __future__ import annotations

from meshca.cli.main import main

main()
