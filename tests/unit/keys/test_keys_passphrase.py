from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from meshca.keys.passphrase import PassphraseError, Sources, choose, find


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def never(_: str) -> str:
    raise AssertionError("nobody was to be asked")


def sources(
    home: Path,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    prompt: Callable[[str], str] | None = None,
) -> Sources:
    return Sources(home, file, environ or {}, prompt)


def test_the_order_of_sources(tmp_path: Path) -> None:
    home_file = written(tmp_path / "passphrase", b"home\n")
    option = written(tmp_path / "option", b"option\n")
    variable_file = written(tmp_path / "variable", b"variable file\n")
    environ = {"MESHCA_PASSPHRASE_FILE": str(variable_file), "MESHCA_PASSPHRASE": "variable"}
    assert find(sources(tmp_path, option, environ, never)).value == b"option"
    assert find(sources(tmp_path, None, environ, never)).value == b"variable file"
    assert find(sources(tmp_path, None, {"MESHCA_PASSPHRASE": "variable"}, never)).value == b"variable"
    assert find(sources(tmp_path, None, {}, never)).value == b"home"
    home_file.unlink()
    assert find(sources(tmp_path, None, {}, lambda _: "typed")).value == b"typed"
    with pytest.raises(PassphraseError, match="MESHCA_PASSPHRASE_FILE"):
        find(sources(tmp_path))


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"a", b"a"), (b"a\n", b"a"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), (b" a \n", b" a "), (b"\xff\n", b"\xff")],
)
def test_one_trailing_newline_is_not_part_of_it(tmp_path: Path, content: bytes, value: bytes) -> None:
    assert find(sources(tmp_path, written(tmp_path / "f", content))).value == value


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", bytes(5000)])
def test_an_unusable_file_is_named_and_nothing_else_is_tried(tmp_path: Path, content: bytes) -> None:
    written(tmp_path / "passphrase", b"home")
    path = written(tmp_path / "f", content)
    with pytest.raises(PassphraseError, match=str(path)):
        find(sources(tmp_path, path, {"MESHCA_PASSPHRASE": "variable"}, never))


def test_a_missing_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="No such file") as caught:
        find(sources(tmp_path, None, {"MESHCA_PASSPHRASE_FILE": str(tmp_path / "absent")}))
    assert caught.value.field.endswith("absent")
    assert caught.value.remedy


def test_an_empty_variable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="MESHCA_PASSPHRASE"):
        find(sources(tmp_path, None, {"MESHCA_PASSPHRASE": ""}, never))


def test_new_keys_without_anybody_to_ask_get_a_generated_one(tmp_path: Path) -> None:
    made = choose(sources(tmp_path), bytes)
    assert made.generated
    assert stat.S_IMODE((tmp_path / "passphrase").stat().st_mode) == 0o600
    again = find(sources(tmp_path, None, {}, never))
    assert (again.value, again.generated) == (made.value, False)
    assert choose(sources(tmp_path)).value == made.value
    assert len(choose(sources(tmp_path)).value) == 43


def test_a_home_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="cannot be stored"):
        choose(sources(tmp_path / "absent"))


def test_a_new_passphrase_is_typed_twice(tmp_path: Path) -> None:
    assert choose(sources(tmp_path, prompt=lambda _: "typed")).value == b"typed"
    answers = iter(["one", "two"])
    with pytest.raises(PassphraseError, match="differ"):
        choose(sources(tmp_path, prompt=lambda _: next(answers)))
    assert list(tmp_path.iterdir()) == []


def test_a_named_passphrase_serves_new_keys_too(tmp_path: Path) -> None:
    assert choose(sources(tmp_path, environ={"MESHCA_PASSPHRASE": "given"})).value == b"given"


def test_it_is_in_no_repr(tmp_path: Path) -> None:
    given = sources(tmp_path, environ={"MESHCA_PASSPHRASE": "hush"})
    assert "hush" not in repr(given) + repr(find(given))
