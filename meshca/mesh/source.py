"""From the texts that a person gives to checked objects.

Rules kept here:
- D1 All texts are read, whatever is wrong with one; all findings are raised together (``SpecError``), or returned if
  none is an error.
- D2 The same object twice within one `-f` argument is an error; a later argument replaces what an earlier one said.
- D3 Input without any object is an error.
- D4 A text is at most 8 MiB with 300,000 values, nested at most 64 levels deep.
- D5 JSON is tried where a text begins like it, YAML otherwise and by the file's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshca.errors import InvalidInputError
from meshca.mesh.findings import Finding, require_no_error
from meshca.mesh.forms import Context, Described, NamedSpec, describe, foreign_form
from meshca.mesh.jsontext import read_json
from meshca.mesh.model import (
    CLASSES,
    KINDS,
    MESH,
    PARENT_KINDS,
    MeshObject,
    ObjectKey,
    ObjectNameError,
    Tag,
    require_name,
)
from meshca.mesh.tree import (
    LONGEST_TEXT,
    MOST_ERRORS,
    MOST_NODES,
    Node,
    Report,
    Subject,
    TooManyErrorsError,
    UnreadableError,
    offset_of,
    path_of,
)
from meshca.mesh.validation import checked_spec
from meshca.mesh.variables import Variables
from meshca.mesh.yamltext import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["NamedSpec", "Parsed", "Source", "parse_documents", "parse_envelope", "parse_file_argument"]

_OWNER = re.compile(r"[0-9]{12}")
_MOST_TAGS = 50
_LONGEST_TAG_KEY = 128
_LONGEST_TAG_VALUE = 256


@dataclass(frozen=True, slots=True)
class Source:
    """One text, and what the command line says about it."""

    path: str
    text: str
    named: NamedSpec | None = None
    mesh: str | None = None
    argument: str = ""
    """The `-f` argument that it came with: files of one folder share theirs. Empty: the path."""


@dataclass(frozen=True, slots=True)
class _Origin:
    report: Report
    spec: Node
    offset: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """The objects of all texts in the order given, and warnings and notes."""

    objects: tuple[MeshObject, ...]
    findings: tuple[Finding, ...] = ()
    _origins: Mapping[str, _Origin] = field(default_factory=dict, repr=False)

    def placed(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Return findings of later checks with file, line and column of the objects that came from here."""
        return tuple(self._placed(finding) for finding in findings)

    def _placed(self, finding: Finding) -> Finding:
        origin = self._origins.get(finding.object)
        if origin is None or finding.file:
            return finding
        path = path_of(finding.field) if finding.field.startswith("spec") else ()
        line, column = origin.report.place(offset_of(origin.spec, path) if path else origin.offset)
        about = (finding.object, finding.field, finding.value, finding.remedy)
        return Finding(finding.severity, finding.rule, *about, origin.report.file, line, column)


def parse_documents(sources: Sequence[Source], variables: Mapping[str, str] | None = None) -> Parsed:
    """Return the objects of all texts, `$V` filled from the variables; without variables (None) a dollar is a dollar.

    Raises:
        SpecError: at least one finding is an error; it carries all of them.
    """
    gathered = _Gathered()
    reports = [_read(source, variables, gathered) for source in sources]
    findings = [finding for report in reports for finding in report.findings]
    if not gathered.objects and not any(finding.severity == "error" for finding in findings):
        findings.append(Finding("error", "the input holds no object", remedy="give a file that describes one"))
    require_no_error(findings)
    return Parsed(tuple(gathered.objects.values()), tuple(findings), gathered.origins)


def parse_envelope(text: str, origin: str = "") -> MeshObject:
    """Return the one object of an envelope in JSON, as the store and the admin API carry it; a dollar is a dollar.

    Raises:
        SpecError: the text is not such an envelope.
    """
    gathered = _Gathered()
    report = _read(Source(origin, text), None, gathered)
    if len(gathered.objects) != 1 and not report.errors:
        report.error(0, f"one object is needed, {len(gathered.objects)} are there")
    require_no_error(report.findings)
    return next(iter(gathered.objects.values()))


def parse_file_argument(argument: str) -> tuple[NamedSpec | None, str]:
    """Return the name and the path of `-f [KIND/NAME=]PATH`.

    Raises:
        InvalidInputError: it begins with a kind, but is not KIND/NAME=PATH.
    """
    head, equals, path = argument.partition("=")
    kind, slash, rest = head.partition("/")
    if not equals or not slash or kind not in KINDS:
        return None, argument
    parent, inner_slash, name = rest.partition("/")
    if kind not in PARENT_KINDS:
        parent, name = "", rest
    form = f"{kind}/{PARENT_KINDS[kind]}/NAME=PATH" if kind in PARENT_KINDS else f"{kind}/NAME=PATH"
    if not name or not path or "/" in name or bool(inner_slash) != bool(parent):
        raise InvalidInputError(f"write {form}", field="-f", value=argument)
    return NamedSpec(kind, name, parent), path


@dataclass(slots=True)
class _Gathered:
    objects: dict[ObjectKey, MeshObject] = field(default_factory=dict)
    origins: dict[str, _Origin] = field(default_factory=dict)
    arguments: dict[ObjectKey, str] = field(default_factory=dict)


def _read(source: Source, variables: Mapping[str, str] | None, gathered: _Gathered) -> Report:
    report = Report(source.path, source.text.removeprefix("\ufeff"))
    try:
        _read_into(report, source, variables, gathered)
    except TooManyErrorsError:
        rule = f"more than {MOST_ERRORS} errors; the rest of this text was not looked at"
        report.findings.append(Finding("error", rule, file=source.path))
    return report


def _read_into(report: Report, source: Source, variables: Mapping[str, str] | None, gathered: _Gathered) -> None:
    try:
        documents = _documents(source.path, report, variables)
    except UnreadableError as error:
        report.error(error.offset, error.rule, Subject(value=error.value, remedy=error.remedy))
        return
    _forget_what_is_foreign(documents, report)
    described = [found for node in documents for found in describe(node, Context(source.named, source.mesh), report)]
    if source.named is not None and len(described) > 1:
        report.error(described[1].envelope.offset, "a name on the command line is for one object, here are several")
        return
    for item in described:
        _gather(item, source, report, gathered)


def _documents(path: str, report: Report, variables: Mapping[str, str] | None) -> list[Node]:
    looks_like_json = report.text.lstrip()[:1] in {"{", "["}
    if len(report.text) > LONGEST_TEXT:
        raise UnreadableError(0, f"a text has at most {LONGEST_TEXT // 1024 // 1024} MiB", remedy="split it into files")
    # Counting separators costs milliseconds; reading what they separate, only to refuse it, would cost seconds.
    is_yaml = path.endswith((".yaml", ".yml")) or not (looks_like_json or path.endswith(".json"))
    if sum(map(report.text.count, ",\n" if is_yaml else ",{[")) > MOST_NODES:
        raise UnreadableError(0, f"a text holds at most {MOST_NODES} values", remedy="split it into files")
    if is_yaml:
        return read_yaml(report, Variables(variables, report))
    return read_json(report, Variables(variables, report))


def _forget_what_is_foreign(documents: list[Node], report: Report) -> None:
    """Keep one finding about a text of a form that is not read, and none about what is in it."""
    foreign = next((node for node in documents if foreign_form(node)), None)
    if foreign is not None:
        report.findings.clear()
        documents[:] = [foreign]


def _gather(item: Described, source: Source, report: Report, gathered: _Gathered) -> None:
    key = ObjectKey(item.mesh, item.kind, item.parent, item.name)
    if not _named_well(item, report):
        return
    argument = source.argument or source.path
    if gathered.arguments.get(key) == argument:
        earlier = gathered.origins[str(key)]
        place = f"{earlier.report.file}:{earlier.report.place(earlier.offset)[0]}"
        about = Subject(str(key), remedy="remove one of the two")
        report.error(item.name_offset, f"an object is described once, this one already at {place}", about)
        return
    # D2 holds for objects with a fault as well, so that the fault is not hidden by a duplicate.
    gathered.arguments[key] = argument
    gathered.origins[str(key)] = _Origin(report, item.spec, item.name_offset)
    spec = checked_spec(item.kind, item.spec, item.mesh, report, str(key))
    owner, tags = _owner(item, report, str(key)), tuple(_tags(item, report, str(key)))
    if spec is not None:
        make: Any = CLASSES[item.kind]
        gathered.objects.pop(key, None)
        gathered.objects[key] = make(item.mesh, item.name, spec, item.parent, owner, tags)


def _named_well(item: Described, report: Report) -> bool:
    named = [(item.kind, item.name), (MESH, item.mesh)]
    if item.parent:
        named.append((PARENT_KINDS[item.kind], item.parent))
    good = True
    for kind, name in dict.fromkeys(named):
        try:
            require_name(kind, name)
        except ObjectNameError as error:
            report.error(item.name_offset, error.message, Subject(field=f"{kind}Name", value=name))
            good = False
    return good


def _owner(item: Described, report: Report, subject: str) -> str:
    node = item.envelope.child("meshOwner")
    if node is None or node.value is None or item.envelope is item.spec:
        return ""
    if isinstance(node.value, str) and _OWNER.fullmatch(node.value):
        return node.value
    about = Subject(subject, "meshOwner", str(node.plain()))
    report.error(node.offset, "an owner is an account number of 12 digits, in quotes", about)
    return ""


def _tags(item: Described, report: Report, subject: str) -> Iterable[Tag]:
    node = item.envelope.child("tags")
    if node is None or node.value is None or item.envelope is item.spec:
        return
    entries = node.value if isinstance(node.value, list) else []
    if not isinstance(node.value, list) or len(entries) > _MOST_TAGS:
        report.error(node.offset, f"tags are a list of at most {_MOST_TAGS}", Subject(subject, "tags"))
        return
    for entry in entries:
        key, value = entry.child("key"), entry.child("value")
        text = (key.value if key else None, value.value if value else "")
        if _is_text(text[0], 1, _LONGEST_TAG_KEY) and _is_text(text[1], 0, _LONGEST_TAG_VALUE):
            yield Tag(str(text[0]), str(text[1]))
        else:
            rule = f"a tag is a key of 1 to {_LONGEST_TAG_KEY} and a value of at most {_LONGEST_TAG_VALUE} characters"
            report.error(entry.offset, rule, Subject(subject, "tags", str(entry.plain())))


def _is_text(value: object, shortest: int, longest: int) -> bool:
    return isinstance(value, str) and shortest <= len(value) <= longest
