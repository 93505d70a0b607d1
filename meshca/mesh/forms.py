"""The forms in which App Mesh objects are written, told apart by what a document holds.

Rules kept here:
- A mapping with `apiVersion` and `kind` is Kubernetes', one with `Resources` or a template version CloudFormation's,
  and what is left is App Mesh's own API.
- `$V` is filled in API and Kubernetes documents that are read; CloudFormation has parameters.
- Kubernetes objects are described after all others: which mesh they are in may follow from any document of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from meshca.mesh.apiform import describe_api
from meshca.mesh.arnmap import ArnMap
from meshca.mesh.cloudformation import describe_template
from meshca.mesh.findings import Finding
from meshca.mesh.kubernetes import Cluster, Resource, is_kubernetes, note_ignored, resources_of
from meshca.mesh.model import MESH, ROUTE, VIRTUAL_ROUTER
from meshca.mesh.tree import MOST_ERRORS, TooManyErrorsError
from meshca.mesh.variables import Variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from meshca.mesh.described import Context, Described
    from meshca.mesh.gathering import Gathered
    from meshca.mesh.tree import Node, Report


class Form(Enum):
    """Whose way of writing objects a document keeps to."""

    API = "API"
    CLOUDFORMATION = "CloudFormation"
    KUBERNETES = "Kubernetes"


def form_of(document: Node) -> Form:
    """Return the form of a document."""
    if is_kubernetes(document):
        return Form.KUBERNETES
    if document.child("Resources") is not None or document.child("AWSTemplateFormatVersion") is not None:
        return Form.CLOUDFORMATION
    return Form.API


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is given beside the texts."""

    variables: Mapping[str, str] | None = None
    """Values of `$V`; None: a dollar is a dollar."""
    parameters: Mapping[str, str] | None = None
    """Values of CloudFormation parameters; a variable of the name goes first."""
    arns: ArnMap = field(default_factory=ArnMap)

    @property
    def parameter_values(self) -> dict[str, str]:
        """Return what CloudFormation parameters are filled from."""
        return {**(self.parameters or {}), **(self.variables or {})}


class Text:
    """One text of a run: its documents, and the objects found in them."""

    def __init__(self, report: Report, context: Context) -> None:
        self.report = report
        self.context = context
        self.spent = False
        """Whether so much is wrong that the rest is not looked at."""
        self._documents: list[Node] = []
        self._described: list[list[Described]] = []
        self._resources: list[tuple[int, Resource]] = []

    def take(self, documents: list[Node]) -> None:
        """Take the documents that were read."""
        self._documents = [found for document in documents for found in _flat(document)]
        self._described = [[] for _ in self._documents]

    @property
    def described(self) -> list[Described]:
        """Return all objects in the order of the text."""
        return [item for items in self._described for item in items]

    @property
    def resources(self) -> list[Resource]:
        """Return the Kubernetes resources."""
        return [resource for _, resource in self._resources]

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, unless too much is wrong already."""
        if self.spent:
            return
        try:
            step()
        except TooManyErrorsError:
            self.spent = True

    def describe(self, inputs: Inputs) -> None:
        """Describe what stands for itself, and gather what is Kubernetes'."""
        variables = Variables(inputs.variables, self.report)
        ignored: dict[str, list[int]] = {}
        for index, document in enumerate(self._documents):
            form = form_of(document)
            if form is Form.KUBERNETES:
                found = resources_of(document, self.report, variables, ignored)
                self._resources += [(index, resource) for resource in found]
            elif form is Form.CLOUDFORMATION:
                values = inputs.parameter_values
                self._described[index] += describe_template(document, values, self.context, self.report)
            else:
                variables.fill_tree(document)
                self._described[index] += describe_api(document, self.context, self.report)
        note_ignored(ignored, self.report)

    def gather_into(self, gathered: Gathered, argument: str) -> None:
        """Check all objects and keep them."""
        described = self.described
        if self.context.named is not None and len(described) > 1 and not self._names_itself():
            rule = "a name on the command line is for one object, here are several"
            self.attempt(lambda: self.report.error(described[1].name_offset, rule))
            return

        def gather() -> None:
            for item in described:
                gathered.add(item, argument, self.report)

        self.attempt(gather)

    def closed_report(self) -> Report:
        """Return the report, and say so if the text was not looked at to its end."""
        if self.spent:
            rule = f"more than {MOST_ERRORS} errors; the rest of this text was not looked at"
            self.report.findings.append(Finding("error", rule, file=self.report.file))
        return self.report

    def _names_itself(self) -> bool:
        """Tell whether all that is described is one Kubernetes router with its routes."""
        kinds = [item.kind for item in self.described]
        return bool(self._resources) and kinds[:1] == [VIRTUAL_ROUTER] and set(kinds[1:]) == {ROUTE}

    def describe_resources(self, cluster: Cluster) -> None:
        """Describe what is Kubernetes'."""
        for index, resource in self._resources:
            self._described[index] += cluster.describe(resource, self.context, self.report)


def describe_all(texts: list[Text], inputs: Inputs) -> None:
    """Describe the objects of all texts of a run."""
    for text in texts:
        text.attempt(lambda text=text: text.describe(inputs))  # type: ignore[misc]  # bound now, called now
    meshes = {item.name for text in texts for item in text.described if item.kind == MESH}
    cluster = Cluster([resource for text in texts for resource in text.resources], meshes)
    for text in texts:
        text.attempt(lambda text=text: text.describe_resources(cluster))  # type: ignore[misc]


def _flat(document: Node) -> Iterator[Node]:
    if isinstance(document.value, list):
        for item in document.value:
            yield from _flat(item)
    else:
        yield document
