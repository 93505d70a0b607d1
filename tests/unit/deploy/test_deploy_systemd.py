"""deploy/systemd: what systemd itself says of the units."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from unit.deploy.deploy_files import DEPLOY

from meshca.envoy.documents import DRAIN_ARGUMENTS

_FOLDER = DEPLOY / "systemd"
_UNITS = sorted(_FOLDER.glob("*.service"))


@pytest.fixture(autouse=True)
def _systemd() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: systemd)")


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=30,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def _settings(unit: Path) -> dict[str, str]:
    lines = re.sub(r"\\\n\s*", "", unit.read_text()).splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w+=", line))


@pytest.mark.parametrize("unit", _UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_it(unit: Path, tmp_path: Path) -> None:
    place = tmp_path / "etc/systemd/system"
    shutil.copytree(_FOLDER, place)
    for command in re.findall(r"^Exec\w+=(\S+)", unit.read_text(), re.MULTILINE):
        program = tmp_path / command.lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(0o755)
    name = unit.name.replace("@.", "@front.")
    done = _analyze("verify", "--man=no", "--recursive-errors=no", f"--root={tmp_path}", place / name)
    complaints = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def test_a_misspelt_setting_is_complained_about(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.service"
    wrong.write_text("[Service]\nExecStart=/bin/true\nProtectSytem=strict\n")
    assert "ProtectSytem" in _analyze("verify", "--man=no", wrong).stderr


@pytest.mark.parametrize("unit", _UNITS, ids=lambda unit: unit.stem)
def test_its_exposure_is_what_the_readme_states(unit: Path) -> None:
    (stated,) = re.findall(rf"`{re.escape(unit.name)}` \| ([0-9.]+)", (_FOLDER / "README.md").read_text())
    ran = _analyze("security", "--offline=true", f"--threshold={round(float(stated) * 10)}", unit)
    assert ran.returncode == 0, ran.stdout[-300:]
    (found,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", ran.stdout)
    assert float(found) <= float(stated)


@pytest.mark.parametrize("name", ["meshca-server", "meshca-agent"])
def test_callers_stay_visible(name: str) -> None:
    settings = _settings(_FOLDER / f"{name}.service")
    assert "PrivateUsers" not in settings, "every caller would be nobody"
    assert "ProtectProc" not in settings, "callers of other users would have no process"
    assert settings["CapabilityBoundingSet"] == settings["AmbientCapabilities"] == ""
    assert settings["LimitCORE"] == "0"


def test_no_secret_stands_in_a_unit() -> None:
    for unit in _UNITS:
        assert not re.search(r"(?i)(passphrase|token|secret|password)=(?!/|%d)", unit.read_text()), unit.name
    assert _settings(_FOLDER / "meshca-server.service")["LoadCredential"] == "passphrase:/etc/meshca/passphrase"
    assert _settings(_FOLDER / "meshca-agent.service")["LoadCredential"] == "token:/etc/meshca/token"


def test_envoy_is_started_with_the_drain_flags_and_its_user_is_ignored() -> None:
    settings = _settings(_FOLDER / "meshca-envoy@.service")
    assert " ".join(DRAIN_ARGUMENTS) in settings["ExecStart"]
    environment = (_FOLDER / "intercept.env").read_text()
    agent = _settings(_FOLDER / "meshca-agent.service")
    assert f"APPMESH_IGNORE_UID={settings['User']},{agent['User']}\n" in environment
    users = (_FOLDER / "meshca.sysusers.conf").read_text()
    for unit in _UNITS:
        user = _settings(unit).get("User", "root")
        assert user == "root" or re.search(rf"^u {user} ", users, re.MULTILINE)
