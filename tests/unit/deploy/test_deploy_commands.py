"""Each `meshca …` that deploy/ and the guides tell people to type, against the command line itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
from unit.deploy.deploy_files import DEPLOY, TOP, compose, manifests, named, task_definition

from meshca.cli.main import cli

_GUIDES = ("docs/migrate-from-app-mesh.md", "docs/coming-from-spire.md")


def _pages() -> Iterator[tuple[str, str]]:
    for path in [*DEPLOY.glob("**/README.md"), *(TOP / guide for guide in _GUIDES)]:
        yield str(path.relative_to(TOP)), path.read_text()


def _lines() -> Iterator[tuple[str, str]]:
    """Yield where a shell command line stands, and the line."""
    for where, text in _pages():
        for line in _shell(text):
            yield where, line
    for unit in (DEPLOY / "systemd").glob("*.service"):
        for command in re.findall(r"^Exec\w+=(.*)", unit.read_text().replace("\\\n", " "), re.MULTILINE):
            yield f"deploy/systemd/{unit.name}", command


def _shell(text: str) -> Iterator[str]:
    """Yield the lines of a guide's blocks of shell."""
    language = None
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            language = None if language is not None else line[3:]
        elif language == "sh" or (language is None and line.startswith("    ")):
            yield line.strip()


def _started() -> Iterator[tuple[str, list[str]]]:
    """Yield what containers are started with."""
    for name, service in compose()["services"].items():
        if service["image"] == "meshca":
            yield f"compose {name}", [*service.get("entrypoint", ["meshca"]), *service.get("command", ["serve"])]
            yield f"compose {name}", service.get("healthcheck", {"test": ["NONE"]})["test"][1:]
    for launch in ("fargate", "ec2"):
        agent = named(task_definition(launch)["containerDefinitions"], "agent")
        yield f"ecs {launch}", [*agent["entryPoint"], *agent["command"]]
    for workload in manifests():
        spec: dict[str, Any] = workload.get("spec", {}).get("template", {}).get("spec", {})
        for one in [*spec.get("initContainers", ()), *spec.get("containers", ())]:
            yield f"kubernetes {one['name']}", [*one.get("command", ["meshca"]), *one["args"]]


def _segments(line: str) -> Iterator[list[str]]:
    """Yield the simple commands of a shell line."""
    plain = re.sub(r"\$\(([^()]*)\)", "SUBSTITUTED", line)
    inner = re.findall(r"\$\(([^()]*)\)", line)
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="|&;<>()")
    lexer.wordchars += "$%:,@{}[]…+^!\\"
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            yield words
            # What follows < or > is a file, and no command of its own.
            words = ["FILE"] if set(word) <= set("<>") else []
        else:
            words.append(word)
    yield words
    for one in inner:
        yield from _segments(one)


def _arguments(words: list[str]) -> list[str] | None:
    """Return what meshca is given, if these words call it."""
    while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in {"sudo", "exec", "do", "{"}):
        words = words[1:]
    if not words:
        return None
    if words[0] == "meshca" or words[0].endswith("bin/meshca"):
        return words[1:]
    if words[:2] == ["sh", "-c"]:
        found = [given for segment in _segments(words[2]) if (given := _arguments(segment)) is not None]
        return found[0]
    if words[0] == "kubectl" and "--" in words:
        return _arguments(words[words.index("--") + 1 :])
    if words[:3] == ["docker", "compose", "exec"]:
        return _arguments(words[words.index("server") + 1 :]) if "server" in words else None
    return None


def _commands() -> list[Any]:
    found = [(where, given) for where, line in _lines() for words in _segments(line) if (given := _arguments(words))]
    found += [(where, given) for where, words in _started() if (given := _arguments(words))]
    assert len(found) > 40
    return _labelled(found)


def _mentions() -> list[Any]:
    inline = [(where, one) for where, text in _pages() for one in re.findall(r"`meshca ([a-z][^`\n]*)`", text)]
    return _labelled([(where, shlex.split(one.replace("…", ""))) for where, one in inline])


def _labelled(found: list[tuple[str, list[str]]]) -> list[Any]:
    return [pytest.param(given, id=f"{where}: {shlex.join(given)[:60]}") for where, given in found]


def require_parses(given: list[str]) -> None:
    """Raise unless click takes these words, down to the last command."""
    command: click.Command = cli
    context = command.make_context("meshca", list(given))
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)


@pytest.mark.parametrize("given", _commands())
def test_meshca_takes_what_people_are_told_to_type(given: list[str]) -> None:
    require_parses(given)


@pytest.mark.parametrize("given", _mentions())
def test_a_command_that_is_mentioned_is_there(given: list[str]) -> None:
    try:
        require_parses(given)
    except click.MissingParameter:
        assert len(given) <= 4, "a whole command line, and not only its name, has to be whole"


@pytest.mark.parametrize(
    "wrong", [["regster", "front"], ["register", "front"], ["envoy", "bootstrap", "--sockt", "/x", "n"]]
)
def test_a_wrong_command_is_noticed(wrong: list[str]) -> None:
    with pytest.raises(click.UsageError):
        require_parses(wrong)
