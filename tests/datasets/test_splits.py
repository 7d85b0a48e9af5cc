"""Splits: groups whole, classes even, nothing leaks, and what leaks is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from made import picture, voc, voc_xml

from blastdet.cli.data_commands.split import command
from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets import splits
from blastdet.datasets.formats import registry


def a_set(*rows: tuple[str, str | None, str | None]) -> Dataset:
    """A set of smears (name, group, split) whose files do not exist."""
    return Dataset("set", Path("/s"), tuple(Sample(Path("/s") / n, (9, 9), group=g, split=s) for n, g, s in rows))


def splits_of(dataset: Dataset) -> list[str | None]:
    return [sample.split for sample in dataset]


OFFICIAL = a_set(
    ("a", "g", "train"),
    ("b", "g", "test"),
    ("c", "h", "val"),
    ("d", "h", "train"),
    ("e", None, "train"),
    ("f", "g", "val"),
)


def test_official_stays_as_it_is() -> None:
    assert splits_of(splits.assign(OFFICIAL, "official")) == splits_of(OFFICIAL)


def test_official_disjoint_takes_from_train_and_val_what_test_shows() -> None:
    dataset = splits.assign(OFFICIAL, "official-disjoint")
    assert splits_of(dataset) == [None, "test", "val", "train", "train", None]
    assert dataset.notes == (
        "split: 1 pictures left out of train, they share a group with test: a",
        "split: 1 pictures left out of val, they share a group with test: f",
    )


def test_purge_also_frees_val_from_train() -> None:
    dataset = splits.purge(OFFICIAL, splits.group_keys(OFFICIAL))
    assert splits_of(dataset) == [None, "test", "val", None, "train", None]
    assert splits.leaks(dataset) == []


def test_leaks_name_group_and_files() -> None:
    assert splits.leaks(OFFICIAL) == [
        "group g: in train (a) and val (f) and test (b)",
        "group h: in train (d) and val (c)",
    ]


def test_identical_files_leak_whatever_their_group(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{n}.png", colour=(c, 0, 0)) for n, c in (("a", 1), ("b", 1), ("c", 9))]
    smears = [Sample(p, (9, 9), group=p.stem, split=s) for p, s in zip(paths, ("train", "test", "val"), strict=True)]
    dataset = Dataset("set", tmp_path, tuple(smears))
    assert splits.leaks(dataset) == ["identical files: in train (a.png) and test (b.png)"]
    for seed in range(20):
        drawn = splits_of(splits.grouped(dataset, seed=seed))
        assert drawn[0] == drawn[1]


def test_no_official_split() -> None:
    with pytest.raises(FormatError, match="no official split found"):
        splits.assign(a_set(("a", None, None)), "official")


@st.composite
def grouped_sets(draw: st.DrawFn) -> Dataset:
    n = draw(st.integers(1, 40))
    rows = []
    for i in range(n):
        label = draw(st.lists(st.integers(0, 3), max_size=4))
        truth = Detections(np.tile([0, 0, 1, 1], (len(label), 1)), label=label) if draw(st.booleans()) else None
        group = draw(st.one_of(st.none(), st.sampled_from("abcdefgh")))
        rows.append(Sample(Path(f"/s/{i}"), (9, 9), group=group, label=draw(st.sampled_from((None, "x"))), truth=truth))
    return Dataset("set", Path("/s"), tuple(rows))


@given(dataset=grouped_sets(), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_grouped_never_leaks_leaves_nothing_out_and_is_repeatable(dataset: Dataset, seed: int) -> None:
    drawn = splits.grouped(dataset, seed=seed)
    assert splits.leaks(drawn) == []
    assert set(splits_of(drawn)) <= set(splits.SPLITS)
    assert splits_of(drawn) == splits_of(splits.grouped(dataset, seed=seed))
    assert [s.path for s in drawn] == [s.path for s in dataset]


def test_grouped_shares_classes_out_evenly() -> None:
    rng = np.random.default_rng(5)
    smears = []
    for i in range(300):
        label = rng.choice(4, p=[0.05, 0.1, 0.8, 0.05], size=rng.integers(5, 30))
        truth = Detections(np.tile([0, 0, 1, 1], (len(label), 1)), label=label)
        smears.append(Sample(Path(f"/s/{i}"), (9, 9), group=f"g{i // rng.integers(1, 4)}", truth=truth))
    dataset = Dataset("set", Path("/s"), tuple(smears))
    for seed in range(5):
        drawn = splits.grouped(dataset, seed=seed)
        for name, share in zip(splits.SPLITS, splits.FRACTIONS, strict=True):
            part, whole = drawn.with_split(name), drawn
            assert len(part) / len(whole) == pytest.approx(share, abs=0.02)
            for cell in ("blast", "wbc", "rbc", "platelet"):
                number = [sum(s.truth.counts()[cell] for s in d) for d in (part, whole)]
                assert number[0] / number[1] == pytest.approx(share, abs=0.02), (name, cell)


def test_seeds_differ() -> None:
    dataset = a_set(*[(str(i), None, None) for i in range(50)])
    assert splits_of(splits.grouped(dataset, seed=1)) != splits_of(splits.grouped(dataset, seed=2))


def test_too_few_groups_are_told() -> None:
    drawn = splits.grouped(a_set(("a", "g", None), ("b", "g", None)))
    assert len([note for note in drawn.notes if "too few" in note]) == 2


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.6, 0.2), (1.0, 0.0, 0.0), (1.5, -0.25, -0.25)])
def test_impossible_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(FormatError, match="three positive shares"):
        splits.grouped(OFFICIAL, fractions=fractions)


def test_a_file_decides_and_comes_back(tmp_path: Path) -> None:
    dataset = a_set(("x/a.jpg", "g,1", None), ("y/a.jpg", None, None), ("b.jpg", None, None), ("c.jpg", None, None))
    listing = tmp_path / "s.csv"
    listing.write_text("\ufeffimage,split\r\nx/a.jpg,train\r\ny/a.jpg,test\r\nb,\r\n", encoding="utf-8")
    chosen = splits.assign(dataset, str(listing))
    assert splits_of(chosen) == ["train", "test", None, None]
    assert chosen.notes == ("split: 1 pictures are not in s.csv, first c.jpg",)
    listing.write_text(splits.to_csv(chosen))
    assert splits_of(splits.assign(dataset, str(listing))) == splits_of(chosen)
    assert splits.read_keys(dataset, listing, "group") == {Path("/s/x/a.jpg"): "g,1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image;split\na;train", "image and split expected"),
        ("", "image and split expected"),
        ("image,split\na.jpg,train", "a.jpg is no picture of /s, or fits several"),
        ("image,split\nz,train", "z is no picture"),
        ("image,split\nb.jpg,dev", "split 'dev' found, one of train, val, test expected"),
        ("image,split\nb.jpg,val\nb,val", "b.jpg is listed twice"),
    ],
)
def test_faulty_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(FormatError) as caught:
        splits.assign(
            a_set(("x/a.jpg", None, None), ("y/a.jpg", None, None), ("b.jpg", None, None)), str(tmp_path / "s.csv")
        )
    assert words in str(caught.value) and "s.csv" in str(caught.value)


def test_a_strategy_that_is_no_file() -> None:
    with pytest.raises(FormatError, match="neither official, official-disjoint, grouped nor a readable file"):
        splits.assign(OFFICIAL, "ofical")


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    stems = "abcdefghijkl"
    root = voc(
        tmp_path / "set", {s: voc_xml([("RBC", 1, 1, 4, 4)]) for s in stems}, {"train": stems[:8], "test": stems[8:]}
    )
    rows = "".join(f"{s},{'ab'[i % 2]}{i // 4},f{i // 6}\n" for i, s in enumerate(stems))
    (root / "overlap_groups.csv").write_text("image,group,field\n" + rows)
    return root


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_command_writes_a_split_that_convert_reads(leaking: Path, tmp_path: Path) -> None:
    code, text = run(leaking, tmp_path / "s.csv", "--seed", 3)
    assert code == 0 and "wrote" in text
    drawn = splits.assign(registry.read(leaking), str(tmp_path / "s.csv"))
    assert splits.leaks(drawn) == [] and None not in splits_of(drawn)


def test_command_refuses_a_leaking_split_unless_told_to(leaking: Path, tmp_path: Path) -> None:
    listing, out = tmp_path / "bad.csv", tmp_path / "s.csv"
    listing.write_text("image,split\na,train\nc,test\n")
    code, text = run(leaking, out, "--strategy", listing)
    assert code == 1 and not out.exists()
    assert "leak     group a0: in train (a.jpg) and test (c.jpg)" in text and "not written: 1 leaks" in text
    code, text = run(leaking, out, "--strategy", listing, "--allow-leaks")
    assert code == 0 and out.exists() and "a split with 1 leaks" in text


def test_command_with_two_keys(leaking: Path, tmp_path: Path) -> None:
    keys = leaking / "overlap_groups.csv"
    code, text = run(leaking, tmp_path / "s.csv", "--keys", keys, "--group-by", "group", "--purge", "field")
    assert code == 0, text
    assert "left out of train" in text
    drawn = splits.assign(registry.read(leaking), str(tmp_path / "s.csv"))
    assert splits.leaks(drawn, splits.read_keys(drawn, keys, "field")) == []
    assert splits.leaks(drawn) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--purge", "field"], ConfigError, "name it with --keys"),
        (["--fractions", "a,b"], ConfigError, "three numbers"),
        (["--strategy", "nothing"], FormatError, "neither"),
    ],
)
def test_command_with_bad_input(
    leaking: Path, tmp_path: Path, options: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(leaking, tmp_path / "s.csv", *options)


@pytest.mark.realdata
def test_bccd_as_published_leaks_and_disjoint_frees_the_test_side(data_dir: Path) -> None:
    published = splits.assign(registry.read(data_dir / "bccd"), "official")
    assert len(splits.leaks(published)) == 20
    freed = splits.assign(published, "official-disjoint")
    assert Counter(splits_of(freed)) == {"train": 195, "val": 81, "test": 72, None: 16}
    assert not [line for line in splits.leaks(freed) if "test" in line]


@pytest.mark.realdata
def test_bccd_grouped_keeps_fields_whole_and_cells_even(data_dir: Path) -> None:
    drawn = splits.assign(registry.read(data_dir / "bccd"), "grouped", seed=4)
    assert splits.leaks(drawn) == []
    for name, share in zip(splits.SPLITS, splits.FRACTIONS, strict=True):
        for cell, whole in (("wbc", 372), ("rbc", 4153), ("platelet", 361)):
            assert sum(s.truth.counts()[cell] for s in drawn.with_split(name)) / whole == pytest.approx(share, abs=0.01)


def test_what_is_no_split_is_not_replaced(leaking: Path, tmp_path: Path) -> None:
    other = tmp_path / "annotations.json"
    other.write_text('{"images": []}')
    with pytest.raises(ConfigError, match="expected a new file or a split"):
        run(leaking, other)
    assert other.read_text() == '{"images": []}'


def test_clusters_that_nobody_named_are_one_line(leaking: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no picture has a cluster"):
        run(leaking, tmp_path / "s.csv", "--group-by", "cluster")


def test_a_picture_with_two_keys_is_one_line(leaking: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("image,slide\na.jpg,1\na.jpg,2\n")
    with pytest.raises(FormatError, match=r"a\.jpg: slide 1 and 2 found"):
        run(leaking, tmp_path / "s.csv", "--keys", tmp_path / "keys.csv", "--group-by", "slide")
