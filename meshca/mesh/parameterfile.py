"""`--parameters FILE`: values of CloudFormation parameters.

Rules kept here:
- The file is the AWS list (`ParameterKey`, `ParameterValue`), the same under `Parameters`, or a map.
- A list of values is written with commas, as AWS does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.findings import SpecError
from meshca.mesh.parameters import text_of
from meshca.mesh.source import documents_of
from meshca.mesh.tree import Node, Report, Subject, TooManyErrorsError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORM = 'write {"NAME": "VALUE"} or [{"ParameterKey": "NAME", "ParameterValue": "VALUE"}]'


def parse_parameters(text: str, path: str) -> dict[str, str]:
    """Return the values that a parameter file gives.

    Raises:
        SpecError: it is no such file.
    """
    report = Report(path, text.removeprefix("\ufeff"))
    found: dict[str, str] = {}
    try:
        documents = documents_of(path, report)
        if len(documents) != 1:
            report.error(0, "a parameter file holds one list or map", Subject(remedy=_FORM))
        for document in documents[:1]:
            found.update(_values(document, report))
    except TooManyErrorsError:
        pass  # what has been reported says enough
    except UnreadableError as error:
        report.error(error.offset, error.rule, Subject(value=error.value, remedy=error.remedy))
    if report.errors:
        raise SpecError(report.findings)
    return found


def _values(document: Node, report: Report) -> Iterator[tuple[str, str]]:
    inner = document.child("Parameters")
    if inner is not None and isinstance(inner.value, dict | list):
        document = inner
    for entry in document.items():
        key, value = entry.text("ParameterKey"), entry.child("ParameterValue")
        if key is None or value is None:
            about = Subject(value=key or "", remedy=_FORM)
            report.error(entry.offset, "an entry has a ParameterKey and a ParameterValue", about)
        else:
            yield key, _value(key, value, report)
    for name, member in document.members().items():
        yield name, _value(name, member.node, report)
    if not isinstance(document.value, dict | list):
        report.error(document.offset, "parameters are a list or a map", Subject(remedy=_FORM))


def _value(name: str, node: Node, report: Report) -> str:
    if isinstance(node.value, list):
        return ",".join(_value(name, item, report) for item in node.items())
    if isinstance(node.value, str | int | float):
        return text_of(node.value)
    report.error(node.offset, "a parameter's value is text, a number or a list", Subject(value=name))
    return ""
