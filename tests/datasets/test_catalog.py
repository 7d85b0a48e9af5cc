"""The catalog: complete, consistent with the readers, and matching the real files."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from blastdet.core.errors import ConfigError
from blastdet.datasets import catalog
from blastdet.datasets.formats import registry

FREE = {"bccd", "pbc_wbc", "chula_rbc12", "allidb1_other"}
ON_REQUEST = {"allidb1", "allidb2", "aml_lmu", "bone_marrow", "cnmc2019"}

MINIMAL = """\
name: tiny
title: t
contents: c
source: s
licence: l
redistribution: "yes"
citation: c
how: h
"""


def write(folder: Path, text: str, name: str = "tiny") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)
    return folder


def test_the_catalog_lists_these_datasets() -> None:
    assert set(catalog.names()) == FREE | ON_REQUEST | {"all_fields"}


@pytest.mark.parametrize("name", catalog.names())
def test_an_entry_is_complete(name: str) -> None:
    entry = catalog.load(name)
    texts = (entry.title, entry.contents, entry.licence, entry.redistribution, entry.citation, entry.how)
    assert all(text.strip() and "\n" not in text.strip() for text in texts)
    assert entry.source.startswith("https://")
    assert bool(entry.url) == (name in FREE) and bool(entry.ask) == (name in ON_REQUEST)
    if entry.url:  # a fixed commit, the one that the text names
        commit = re.search(r"[0-9a-f]{40}", entry.url)
        assert commit and commit[0] in entry.how and entry.url.startswith(entry.source)


@pytest.mark.parametrize("name", catalog.names())
def test_checksums_exist_where_files_may_be_passed_on(name: str) -> None:
    listed = catalog.checksums(name)
    assert bool(listed) == (name in FREE)
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in listed.values())
    assert not any(path.startswith("/") or ".." in path for path in listed)
    assert set(catalog.added(name)) <= set(listed)


@pytest.mark.parametrize("name", catalog.names())
def test_readers_and_their_options_exist(name: str) -> None:
    entry = catalog.load(name)
    if entry.reader is None:
        assert name == "allidb1_other" and not entry.options
        return
    reader = registry.resolve(registry.READERS[entry.reader])
    assert set(entry.options) <= set(inspect.signature(reader).parameters)


def test_lists_stay_small() -> None:
    files = [file for pattern in ("checksums/*", "added/*/*") for file in catalog.CATALOG.glob(pattern)]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    assert {file.suffix for file in files} == {".sha256", ".csv"}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"expected the name of a dataset \(all_fields, .*bccd.*\), got 'bbcd'"):
        catalog.load("bbcd")
    with pytest.raises(ConfigError, match=r"got '\.\./x'"):
        catalog.load("../x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.replace("title: t\n", ""), "title: Field required"),
        (MINIMAL + "colour: red\n", "colour: Extra inputs"),
        (MINIMAL.replace('"yes"', "yes"), "redistribution: Input should be a valid string"),
        (MINIMAL.replace("tiny", "other"), "expected name 'tiny', got 'other'"),
        ("a: [", "not valid YAML"),
        ("", "valid dictionary"),
    ],
)
def test_an_invalid_entry_is_a_one_line_error_with_the_file_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        catalog.load("tiny", write(tmp_path, text))
    assert "tiny.yaml" in str(error.value) and "\n" not in str(error.value)


def test_an_empty_catalog_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the dataset catalog"):
        catalog.names(tmp_path)


def test_problems_list_missing_changed_and_too_few_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "catalog", MINIMAL + 'expect: {"*.Jpg": 2}\n')
    (folder / "checksums").mkdir()
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of b"foo"
    lines = [f"{digest}  a/b c.txt", f"{digest}  d.txt", f"{digest}  e.txt"]
    (folder / "checksums/tiny.sha256").write_text("\n".join(lines) + "\n")
    root = tmp_path / "copy"
    assert catalog.problems(catalog.load("tiny", folder), root, folder) == [f"{root}: no such folder"]
    (root / "a").mkdir(parents=True)
    (root / "a/b c.txt").write_bytes(b"foo")
    (root / "d.txt").write_bytes(b"fo0")
    (root / "x.JPG").write_bytes(b"")
    assert catalog.problems(catalog.load("tiny", folder), root, folder) == [
        "d.txt: differs from the published file",
        "e.txt: missing",
        "*.Jpg: expected 2 files, got 1",
    ]


@pytest.mark.realdata
@pytest.mark.parametrize("name", sorted(FREE))
def test_real_copies_are_as_published(name: str, data_dir: Path) -> None:
    root = data_dir / ("allidb1_other_xyc" if name == "allidb1_other" else name)
    assert catalog.problems(catalog.load(name), root) == []
    here = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    assert here - set(catalog.checksums(name)) == {"README.md"}
