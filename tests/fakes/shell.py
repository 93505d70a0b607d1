"""Runs commands in this process against a home."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result
from fakes.admin import FakeAdmin

from meshca.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Shell:
    """Runs commands against a home."""

    home: Path
    admin: FakeAdmin = field(default_factory=FakeAdmin)

    def run(self, *arguments: str, code: int = 0, **how: Any) -> Result:
        """Run a command and expect an exit code."""
        result = CliRunner().invoke(cli, ["--home", str(self.home), *arguments], **how)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        return result

    def json(self, *arguments: str, code: int = 0, **how: Any) -> Any:
        """Run a command with `-o json` and return the document."""
        return json.loads(self.run(*arguments, "-o", "json", code=code, **how).stdout)
