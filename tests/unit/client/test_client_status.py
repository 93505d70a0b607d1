from __future__ import annotations

from pathlib import Path

import pytest

from meshca.client.admin import AdminClient
from meshca.client.status import KINDS, code_of, error_of
from meshca.errors import MeshcaError, UnavailableError


@pytest.mark.parametrize("kind", [kind for _, kind in KINDS])
def test_an_error_keeps_kind_and_words_across_the_wire(kind: type[MeshcaError]) -> None:
    class Special(kind):  # type: ignore[misc, valid-type]
        pass

    error = Special("does not fit", field="port", value="x")
    arrived = error_of(code_of(error).value[0], str(error))
    assert type(arrived) is kind
    assert str(arrived) == str(error)


def test_what_is_not_ours_is_internal() -> None:
    assert code_of(ValueError("secret")).name == "INTERNAL"
    assert type(error_of(13, "internal error")) is MeshcaError


def test_no_server_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with AdminClient(tmp_path / "admin.sock", deadline=5) as client, pytest.raises(UnavailableError, match="serve"):
        client.status()
