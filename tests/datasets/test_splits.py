"""Splits: groups stay together, classes are balanced, nothing leaks, and leaks are reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from made import image_file, voc, voc_xml

from blastdet.cli.data_commands.split import command
from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets import splits
from blastdet.datasets.formats import registry


def made_of(*rows: tuple[str, str | None, str | None]) -> Dataset:
    """A dataset of samples (name, group, split) whose files do not exist."""
    return Dataset("set", Path("/s"), tuple(Sample(Path("/s") / n, (9, 9), group=g, split=s) for n, g, s in rows))


def splits_of(dataset: Dataset) -> list[str | None]:
    return [sample.split for sample in dataset]


OFFICIAL = made_of(
    ("a", "g", "train"),
    ("b", "g", "test"),
    ("c", "h", "val"),
    ("d", "h", "train"),
    ("e", None, "train"),
    ("f", "g", "val"),
)


def test_official_is_unchanged() -> None:
    assert splits_of(splits.split(OFFICIAL, "official")) == splits_of(OFFICIAL)


def test_official_disjoint_removes_groups_of_test_from_train_and_val() -> None:
    dataset = splits.split(OFFICIAL, "official-disjoint")
    assert splits_of(dataset) == [None, "test", "val", "train", "train", None]
    assert dataset.notes == (
        "split: 1 image removed from train because of groups shared with test: a",
        "split: 1 image removed from val because of groups shared with test: f",
    )


def test_purge_also_separates_val_from_train() -> None:
    dataset = splits.remove_shared(OFFICIAL, splits.group_keys(OFFICIAL))
    assert splits_of(dataset) == [None, "test", "val", None, "train", None]
    assert splits.leaks(dataset) == []


def test_leaks_name_group_and_files() -> None:
    assert splits.leaks(OFFICIAL) == [
        "group g: in train (a) and val (f) and test (b)",
        "group h: in train (d) and val (c)",
    ]


def test_identical_files_leak_whatever_their_group(tmp_path: Path) -> None:
    paths = [image_file(tmp_path / f"{n}.png", colour=(c, 0, 0)) for n, c in (("a", 1), ("b", 1), ("c", 9))]
    samples = [Sample(p, (9, 9), group=p.stem, split=s) for p, s in zip(paths, ("train", "test", "val"), strict=True)]
    dataset = Dataset("set", tmp_path, tuple(samples))
    assert splits.leaks(dataset) == ["identical files: in train (a.png) and test (b.png)"]
    for seed in range(20):
        drawn = splits_of(splits.grouped(dataset, seed=seed))
        assert drawn[0] == drawn[1]


def test_split_reads_a_dataset_by_path(leaking: Path) -> None:
    data = splits.split(leaking, seed=3)
    assert splits.leaks(data) == [] and set(splits_of(data)) == set(splits.SPLITS)
    assert splits_of(data) == splits_of(splits.split(registry.read(leaking), seed=3))


def test_keys_and_purge_replace_the_groups() -> None:
    data = made_of(*[(f"{i}", None, None) for i in range(40)])
    keys = {sample.path: str(i // 2) for i, sample in enumerate(data)}
    fields = {sample.path: str(i // 4) for i, sample in enumerate(data)}
    drawn = splits.split(data, keys=keys, purge=fields)
    assert splits.leaks(drawn, keys) == [] and splits.leaks(drawn, fields) == []
    assert splits.leaks(splits.split(data, keys=keys), fields)


def test_groups_are_joined_transitively(tmp_path: Path) -> None:
    """a and b share a file, b and c a group, c and d a file: one unit."""
    groups, colours = ("1", "2", "2", "3", "4"), (10, 10, 20, 20, 30)
    paths = [image_file(tmp_path / f"{n}.png", colour=(c, 0, 0)) for n, c in zip("abcde", colours, strict=True)]
    samples = [Sample(path, (9, 9), group=group) for path, group in zip(paths, groups, strict=True)]
    data = Dataset("set", tmp_path, tuple(samples))
    for seed in range(10):
        drawn = splits_of(splits.split(data, seed=seed))
        assert len(set(drawn[:4])) == 1 and drawn[4] != drawn[0]


def test_no_official_split() -> None:
    with pytest.raises(FormatError, match="no official split"):
        splits.split(made_of(("a", None, None)), "official")


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


@pytest.mark.slow
@given(dataset=grouped_sets(), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_grouped_never_leaks_uses_every_image_and_is_reproducible(dataset: Dataset, seed: int) -> None:
    drawn = splits.grouped(dataset, seed=seed)
    assert splits.leaks(drawn) == []
    assert set(splits_of(drawn)) <= set(splits.SPLITS)
    assert splits_of(drawn) == splits_of(splits.grouped(dataset, seed=seed))
    assert [s.path for s in drawn] == [s.path for s in dataset]


def test_grouped_balances_classes() -> None:
    rng = np.random.default_rng(5)
    samples = []
    for i in range(300):
        label = rng.choice(4, p=[0.05, 0.1, 0.8, 0.05], size=rng.integers(5, 30))
        truth = Detections(np.tile([0, 0, 1, 1], (len(label), 1)), label=label)
        samples.append(Sample(Path(f"/s/{i}"), (9, 9), group=f"g{i // rng.integers(1, 4)}", truth=truth))
    dataset = Dataset("set", Path("/s"), tuple(samples))
    for seed in range(5):
        drawn = splits.grouped(dataset, seed=seed)
        for name, fraction in zip(splits.SPLITS, splits.FRACTIONS, strict=True):
            part, whole = drawn.with_split(name), drawn
            assert len(part) / len(whole) == pytest.approx(fraction, abs=0.02)
            for cell in ("blast", "wbc", "rbc", "platelet"):
                number = [sum(s.truth.counts()[cell] for s in d) for d in (part, whole)]
                assert number[0] / number[1] == pytest.approx(fraction, abs=0.02), (name, cell)


def test_seeds_differ() -> None:
    dataset = made_of(*[(str(i), None, None) for i in range(50)])
    assert splits_of(splits.grouped(dataset, seed=1)) != splits_of(splits.grouped(dataset, seed=2))


def test_too_few_groups_give_a_note() -> None:
    drawn = splits.grouped(made_of(("a", "g", None), ("b", "g", None)))
    assert len([note for note in drawn.notes if "too few" in note]) == 2


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.6, 0.2), (1.0, 0.0, 0.0), (1.5, -0.25, -0.25)])
def test_impossible_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(FormatError, match="three positive numbers"):
        splits.grouped(OFFICIAL, fractions=fractions)


def test_a_split_file_round_trip(tmp_path: Path) -> None:
    dataset = made_of(("x/a.jpg", "g,1", None), ("y/a.jpg", None, None), ("b.jpg", None, None), ("c.jpg", None, None))
    listing = tmp_path / "s.csv"
    listing.write_text("\ufeffimage,split\r\nx/a.jpg,train\r\ny/a.jpg,test\r\nb,\r\n", encoding="utf-8")
    chosen = splits.split(dataset, str(listing))
    assert splits_of(chosen) == ["train", "test", None, None]
    assert chosen.notes == ("split: 1 images are not in s.csv, first c.jpg",)
    listing.write_text(splits.to_csv(chosen))
    assert splits_of(splits.split(dataset, str(listing))) == splits_of(chosen)
    assert splits.read_keys(dataset, listing, "group") == {Path("/s/x/a.jpg"): "g,1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image;split\na;train", "expected the columns image and split"),
        ("", "expected the columns image and split"),
        ("image,split\na.jpg,train", "a.jpg: matches no image of /s, or several"),
        ("image,split\nz,train", "z: matches no image"),
        ("image,split\nb.jpg,dev", "expected one of train, val, test as split, got 'dev'"),
        ("image,split\nb.jpg,val\nb,val", "b.jpg: listed twice"),
    ],
)
def test_an_invalid_split_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(FormatError) as caught:
        splits.split(
            made_of(("x/a.jpg", None, None), ("y/a.jpg", None, None), ("b.jpg", None, None)), str(tmp_path / "s.csv")
        )
    assert words in str(caught.value) and "s.csv" in str(caught.value)


def test_an_unknown_strategy() -> None:
    with pytest.raises(FormatError, match="expected official, official-disjoint, grouped or a CSV file"):
        splits.split(OFFICIAL, "ofical")


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
    drawn = splits.split(registry.read(leaking), str(tmp_path / "s.csv"))
    assert splits.leaks(drawn) == [] and None not in splits_of(drawn)


def test_command_refuses_a_leaking_split_without_allow_leaks(leaking: Path, tmp_path: Path) -> None:
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
    assert "removed from train" in text
    drawn = splits.split(registry.read(leaking), str(tmp_path / "s.csv"))
    assert splits.leaks(drawn, splits.read_keys(drawn, keys, "field")) == []
    assert splits.leaks(drawn) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--purge", "field"], ConfigError, "pass the file with --keys"),
        (["--fractions", "a,b"], ConfigError, "three numbers"),
        (["--strategy", "nothing"], FormatError, "or a CSV file"),
    ],
)
def test_command_with_bad_input(
    leaking: Path, tmp_path: Path, options: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(leaking, tmp_path / "s.csv", *options)


@pytest.mark.realdata
def test_bccd_as_published_leaks_and_disjoint_separates_test(data_dir: Path) -> None:
    published = splits.split(registry.read(data_dir / "bccd"), "official")
    assert len(splits.leaks(published)) == 20
    freed = splits.split(published, "official-disjoint")
    assert Counter(splits_of(freed)) == {"train": 195, "val": 81, "test": 72, None: 16}
    assert not [line for line in splits.leaks(freed) if "test" in line]


@pytest.mark.realdata
def test_bccd_grouped_keeps_fields_together_and_balances_cells(data_dir: Path) -> None:
    drawn = splits.split(registry.read(data_dir / "bccd"), "grouped", seed=4)
    assert splits.leaks(drawn) == []
    for name, fraction in zip(splits.SPLITS, splits.FRACTIONS, strict=True):
        for cell, whole in (("wbc", 372), ("rbc", 4153), ("platelet", 361)):
            assert sum(s.truth.counts()[cell] for s in drawn.with_split(name)) / whole == pytest.approx(
                fraction, abs=0.01
            )


def test_a_file_that_is_not_a_split_is_not_replaced(leaking: Path, tmp_path: Path) -> None:
    other = tmp_path / "annotations.json"
    other.write_text('{"images": []}')
    with pytest.raises(ConfigError, match="expected a new file or a split"):
        run(leaking, other)
    assert other.read_text() == '{"images": []}'


def test_missing_clusters_are_a_one_line_error(leaking: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no image has a cluster"):
        run(leaking, tmp_path / "s.csv", "--group-by", "cluster")


def test_an_image_with_two_keys_is_a_one_line_error(leaking: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("image,slide\na.jpg,1\na.jpg,2\n")
    with pytest.raises(FormatError, match=r"a\.jpg: expected one slide, got 1 and 2"):
        run(leaking, tmp_path / "s.csv", "--keys", tmp_path / "keys.csv", "--group-by", "slide")
