"""meshca as the image of deploy/docker installs it: complete, and without looking back to the tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

_TOP = Path(__file__).parents[2]
_COPIED = ("pyproject.toml", "README.md", "LICENSE", "meshca")


def test_the_wheel_holds_all_that_a_server_needs(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "installed"
    source.mkdir()
    for name in _COPIED:
        copy = shutil.copytree if (_TOP / name).is_dir() else shutil.copy
        copy(_TOP / name, source / name)
    locked = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *locked, "--target", target, source], check=True, timeout=60
    )
    shutil.rmtree(source)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(target), "MESHCA_HOME": str(tmp_path / "home")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import meshca; print(meshca.__file__)").startswith(str(target))
    (tmp_path / "home").mkdir()  # as a volume is: there, and empty
    run("-m", "meshca", "init", "--trust-domain", "m.test")  # the migrations are there
    read = json.loads(run("-m", "meshca", "validate", "-f", str(_TOP / "deploy/docker/mesh.yaml"), "-o", "json"))
    assert {one["name"] for one in read["objects"]} == {"shop", "front", "back", "back.shop.local"}
