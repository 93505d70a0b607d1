"""What `-f`, `--mesh`, `--var`, `--parameters` and `--map-arn` mean: from arguments to parsed mesh objects.

The rules this module keeps:
- A later `-f` for an object replaces an earlier one, which parse_documents does; here the order is kept, and the files
  of one folder say that they are of one argument.
- Of a folder, the files `*.json *.yaml *.yml *.template` directly in it are read, in name order; none is an error.
- A file over 16 MiB is refused before it is read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshca.errors import InvalidInputError, NotFoundError
from meshca.mesh.arnmap import parse_arn_map
from meshca.mesh.parameterfile import parse_parameters
from meshca.mesh.source import Parsed, Source, parse_documents, parse_file_argument

_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".template"})
_LARGEST = 16 << 20


@dataclass(frozen=True, slots=True)
class SpecArguments:
    """The arguments that say what is read, as they stand on the command line."""

    files: Sequence[str]
    mesh: str | None = None
    variables: Sequence[str] = ()
    parameters: Sequence[str] = ()
    map_arn: Sequence[str] = ()


def read_specs(arguments: SpecArguments) -> Parsed:
    """Read and parse all that `-f` names.

    Raises:
        InvalidInputError: what is there breaks a rule; all findings are in it.
        NotFoundError: a file does not exist or cannot be read.
    """
    values, arns = parse_variables(arguments.variables), parse_arn_map(arguments.map_arn)
    parameters: dict[str, str] = {}
    for path in arguments.parameters:
        parameters.update(parse_parameters(_read(Path(path), "--parameters"), path))
    sources = [source for argument in arguments.files for source in _sources(argument, arguments.mesh)]
    return parse_documents(sources, values, parameters=parameters, arns=arns)


def parse_variables(variables: Sequence[str]) -> dict[str, str]:
    """Split each K=V; a later K replaces an earlier one.

    Raises:
        InvalidInputError: there is no `=`, or nothing before it.
    """
    found = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not (name and equals):
            raise InvalidInputError("is not K=V", field="--var", value=variable)
        found[name] = value
    return found


def _sources(argument: str, mesh: str | None) -> Iterator[Source]:
    named, path = parse_file_argument(argument)
    if path == "-":
        yield Source("<stdin>", _text("<stdin>", sys.stdin.buffer.read(_LARGEST + 1)), named, mesh, argument)
        return
    for file in _files(Path(path)):
        yield Source(str(file), _read(file), named, mesh, argument)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise NotFoundError("the folder holds no .json, .yaml, .yml or .template file", field="-f", value=str(path))
    return files


def _read(file: Path, option: str = "-f") -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise NotFoundError(f"cannot read it: {error.strerror}", field=option, value=str(file)) from error
    return _text(str(file), content, option)


def _text(name: str, content: bytes, option: str = "-f") -> str:
    if len(content) > _LARGEST:
        raise InvalidInputError("is larger than 16 MiB", field=option, value=name, remedy="split it into files")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start})"
        raise InvalidInputError(problem, field=option, value=name, remedy="save it as UTF-8") from error
