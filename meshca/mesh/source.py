"""From the texts that a person gives to checked objects.

Rules kept here:
- D1 All texts are read, whatever is wrong with one; all findings are raised together (``SpecError``), or returned if
  none is an error.
- D2 Input without any object is an error.
- D3 A text is at most 8 MiB with 300,000 values, nested at most 64 levels deep.
- D4 JSON is tried where a text begins like it, YAML otherwise and by the file's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.errors import InvalidInputError
from meshca.mesh.arnmap import ArnMap
from meshca.mesh.described import Context, NamedSpec
from meshca.mesh.findings import Finding, require_no_error
from meshca.mesh.forms import Inputs, Text, describe_all
from meshca.mesh.gathering import Gathered, Parsed
from meshca.mesh.jsontext import read_json
from meshca.mesh.model import KINDS, PARENT_KINDS
from meshca.mesh.tree import LONGEST_TEXT, MOST_NODES, Node, Report, Subject, UnreadableError
from meshca.mesh.yamltext import read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshca.mesh.model import MeshObject

__all__ = ["NamedSpec", "Parsed", "Source", "documents_of", "parse_documents", "parse_envelope", "parse_file_argument"]


@dataclass(frozen=True, slots=True)
class Source:
    """One text, and what the command line says about it."""

    path: str
    text: str
    named: NamedSpec | None = None
    mesh: str | None = None
    argument: str = ""
    """The `-f` argument that it came with: files of one folder share theirs. Empty: the path."""


def parse_documents(
    sources: Sequence[Source],
    variables: Mapping[str, str] | None = None,
    *,
    parameters: Mapping[str, str] | None = None,
    arns: ArnMap | None = None,
) -> Parsed:
    """Return the objects of all texts, `$V` filled from the variables; without variables (None) a dollar is a dollar.

    CloudFormation parameters are filled from the variables as well, and from the parameters.

    Raises:
        SpecError: at least one finding is an error; it carries all of them.
    """
    gathered, reports = _read(sources, Inputs(variables, parameters, arns or ArnMap()))
    findings = [finding for report in reports for finding in report.findings]
    if not gathered.objects and not any(finding.severity == "error" for finding in findings):
        findings.append(Finding("error", "the input holds no object", remedy="give a file that describes one"))
    require_no_error(findings)
    return gathered.parsed(findings)


def parse_envelope(text: str, origin: str = "") -> MeshObject:
    """Return the one object of an envelope in JSON, as the store and the admin API carry it; a dollar is a dollar.

    Raises:
        SpecError: the text is not such an envelope.
    """
    gathered, (report,) = _read([Source(origin, text)], Inputs())
    if len(gathered.objects) != 1 and not report.errors:
        report.error(0, f"one object is needed, {len(gathered.objects)} are there")
    require_no_error(report.findings)
    return gathered.objects[0]


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


def documents_of(path: str, report: Report) -> list[Node]:
    """Return the documents of a text.

    Raises:
        UnreadableError: it is neither JSON nor YAML, or breaks a limit.
    """
    looks_like_json = report.text.lstrip()[:1] in {"{", "["}
    if len(report.text) > LONGEST_TEXT:
        raise UnreadableError(0, f"a text has at most {LONGEST_TEXT // 1024 // 1024} MiB", remedy="split it into files")
    # Counting separators costs milliseconds; reading what they separate, only to refuse it, would cost seconds.
    is_yaml = path.endswith((".yaml", ".yml")) or not (looks_like_json or path.endswith(".json"))
    if sum(map(report.text.count, ",\n" if is_yaml else ",{[")) > MOST_NODES:
        raise UnreadableError(0, f"a text holds at most {MOST_NODES} values", remedy="split it into files")
    return read_yaml(report) if is_yaml else read_json(report)


def _read(sources: Sequence[Source], inputs: Inputs) -> tuple[Gathered, list[Report]]:
    texts = [_opened(source) for source in sources]
    describe_all(texts, inputs)
    gathered = Gathered(inputs.arns)
    for source, text in zip(sources, texts, strict=True):
        text.gather_into(gathered, source.argument or source.path)
    return gathered, [text.closed_report() for text in texts]


def _opened(source: Source) -> Text:
    report = Report(source.path, source.text.removeprefix("\ufeff"))
    documents: list[Node] = []
    text = Text(report, Context(source.named, source.mesh))

    def read() -> None:
        try:
            documents.extend(documents_of(source.path, report))
        except UnreadableError as error:
            report.error(error.offset, error.rule, Subject(value=error.value, remedy=error.remedy))

    text.attempt(read)
    text.take(documents)
    return text
