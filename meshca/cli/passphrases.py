"""Where the command line looks for a passphrase."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from meshca.keys.passphrase import Sources

if TYPE_CHECKING:
    from pathlib import Path


def sources(home: Path, file: Path | None) -> Sources:
    """Return the places of design §8: file, environment, the home, and a prompt where there is a terminal."""
    return Sources(home, file, os.environ, _prompt if sys.stdin.isatty() and sys.stderr.isatty() else None)


def _prompt(text: str) -> str:
    answer: str = click.prompt(text.rstrip(": "), hide_input=True, err=True)
    return answer
