"""Synthetic smears: truth is exact, any part alone is the whole's part, and sizes are those of blood."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from made import heed_interrupts

from blastdet.cli.data_commands.synth import command
from blastdet.core import boxes
from blastdet.core.errors import BlastdetError, ConfigError, ImageError
from blastdet.core.types import BLAST, PLATELET, RBC, WBC, Detections
from blastdet.datasets.formats import coco
from blastdet.synth import render as rendering
from blastdet.synth.cell_rendering import DEBRIS, MAX_REACH_UM, OD_UNIT, SMUDGE, Cell, draw
from blastdet.synth.render import PALETTES, SynthConfig, configure, render, render_tiff, varied
from blastdet.synth.scene import Scene
from blastdet.synth.stains import STAINS

SMALL = SynthConfig(size_wh=(700, 520), mpp=0.12, white_cells=1500, smudges=200)


def same(a: Detections, b: Detections) -> None:
    np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
    np.testing.assert_array_equal(a.label, b.label)
    np.testing.assert_array_equal(a.ignore, b.ignore)
    np.testing.assert_array_equal(a.cell_type, b.cell_type)


def test_same_seed_same_smear_other_seed_another() -> None:
    image, truth = render(SMALL, 5)
    again, truth_again = render(SMALL, 5)
    np.testing.assert_array_equal(image, again)
    same(truth, truth_again)
    assert (render(SMALL, 6)[0] != image).mean() > 0.5


@pytest.mark.parametrize("quality", [None, 80])
def test_image_does_not_depend_on_how_it_is_cut(quality: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.model_copy(update={"jpeg_quality": quality, "squeeze": 1.3})
    whole, truth = render(config, 3)
    for step in ((1, 1), (2, 3), (9, 1)):
        monkeypatch.setattr(rendering, "_STEP", step)
        part, truth_part = render(config, 3)
        np.testing.assert_array_equal(whole, part)
        same(truth, truth_part)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(w=st.integers(1, 600), h=st.integers(1, 600), seed=st.integers(0, 10**9))
def test_any_size(w: int, h: int, seed: int) -> None:
    image, truth = render(SynthConfig(size_wh=(w, h), mpp=0.2), seed)
    assert image.shape == (h, w, 3)
    assert (truth.boxes_xyxy == boxes.clip(truth.boxes_xyxy, (w, h))).all()
    assert (boxes.area(truth.boxes_xyxy) > 0).all()


def test_lossless_tiff_is_the_image_in_memory(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"jpeg_quality": None})
    path = tmp_path / "smear.tif"
    truth = render_tiff(path, (700, 520), config, 9)
    image, expected = render(config, 9)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        assert file.is_bigtiff
        assert page.is_tiled
        np.testing.assert_array_equal(page.asarray(), image)
        x, unit = page.tags["XResolution"].value, page.tags["ResolutionUnit"].value
    assert (x[0] / x[1], unit) == (pytest.approx(1e4 / 0.12, rel=1e-4), 3)
    same(truth, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["smear.tif"]


def test_jpeg_tiff_looks_like_the_image_in_memory(tmp_path: Path) -> None:
    render_tiff(tmp_path / "smear.tif", (700, 520), SMALL, 9)
    image = tifffile.imread(tmp_path / "smear.tif").astype(int)
    assert np.abs(image - render(SMALL, 9)[0]).mean() < 1.5


@pytest.mark.slow
def test_wide_tiff_of_many_parts_in_a_row(tmp_path: Path) -> None:
    config = SynthConfig(size_wh=(2900, 300), mpp=0.3, jpeg_quality=None)
    render_tiff(tmp_path / "wide.tif", config.size_wh, config, 2)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "wide.tif"), render(config, 2)[0])


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be written"):
        render_tiff(tmp_path / "missing" / "x.tif", (300, 300), SMALL, 1)
    target = tmp_path / "smear.tif"
    target.mkdir()
    with pytest.raises(ImageError, match=r"smear\.tif: cannot be written"):
        render_tiff(target, (300, 300), SMALL, 1)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_under_the_final_name(tmp_path: Path, signal_: signal.Signals) -> None:
    words = [sys.executable, "-m", "blastdet", "synth", str(tmp_path / "x.tif"), "--size", "20000x20000"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    for _ in range(600):
        if any(tmp_path.iterdir()):
            break
        time.sleep(0.1)
    process.send_signal(signal_)
    _, text = process.communicate(timeout=60)
    assert process.returncode == (130 if signal_ == signal.SIGINT else -signal_)
    left = [path.name for path in tmp_path.iterdir()]
    assert "x.tif" not in left and "x.json" not in left
    if signal_ == signal.SIGINT:
        assert left == []
        assert text.count("\n") == 1


@pytest.mark.parametrize("palette", ["bccd", "all", "chula"])
def test_boxes_enclose_each_cell_exactly(palette: str) -> None:
    """Oracle: where the drawn density itself rises from nothing, found without the outline that boxes are made of."""
    stain = replace(STAINS[palette], halo=0.0)
    soft = 5  # px that the ramp at an outline, 0.4 µm wide, may shift the rise
    for kind, cell_type, radius in (
        (RBC, "", 3.7),
        (WBC, "neutrophil", 6.5),
        (BLAST, "blast", 7.0),
        (PLATELET, "", 1.4),
    ):
        for seed in range(5):
            patch = draw(Cell(kind, cell_type, 31.3, 27.9, radius, seed), stain, (0.1, 0.1))
            drawn = patch.density.max(axis=2) > 0.02 * OD_UNIT
            for axis in (0, 1):
                found, stated = (np.flatnonzero(m.any(axis=axis)) for m in (drawn, patch.mask))
                assert abs(found[0] - stated[0]) <= soft
                assert abs(found[-1] - stated[-1]) <= soft


def test_boxes_lie_where_the_cells_are_in_the_image() -> None:
    """A film with cells less the same film without: what changed lies in the boxes, and every box holds a change."""
    bare = {"red_cells": 0, "white_cells": 0, "platelets": 0, "smudges": 0}
    plain = {"size_wh": (640, 500), "debris": 0, "noise": 0, "blur_um": 0, "jpeg_quality": None, "palette": "pbc"}
    image, truth = render(configure(**plain), 13)
    empty, _ = render(configure(**(plain | bare)), 13)
    changed = np.abs(image.astype(int) - empty).max(axis=2) > 25
    covered = np.zeros(changed.shape, bool)
    for x1, y1, x2, y2 in truth.boxes_xyxy.astype(int):
        covered[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True  # the soft edge ends outside
        inside = changed[y1:y2, x1:x2]
        assert inside.mean() > 0.3
        assert inside[[0, -1]].any() or (x2 - x1) < 12
    assert (changed & ~covered).sum() < 0.002 * changed.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("mpp", "squeeze"), [(0.1, 1.0), (0.1, 1.33), (0.4, 1.0)])
def test_cells_have_the_size_of_cells(mpp: float, squeeze: float) -> None:
    size_um = 240
    size = (int(size_um / mpp / squeeze), int(size_um / mpp))
    config = SynthConfig(size_wh=size, mpp=mpp, squeeze=squeeze, white_cells=1200, blast_share=0.5, smudges=0)
    _, truth = render(config, 4)
    inside = (truth.boxes_xyxy[:, :2] > 0).all(1) & (truth.boxes_xyxy[:, 2:] < size).all(1)
    truth = truth[np.asarray(inside)]
    um = (truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]) * config.mpp_xy
    expected = {RBC: (6.8, 8.4), PLATELET: (2.0, 3.8), BLAST: (10, 18), WBC: (9, 16)}
    for label, (low, high) in expected.items():
        median = np.median(um[truth.label == label], axis=0)
        assert (low <= median).all(), (label, median)
        assert (median <= high).all(), (label, median)


@pytest.mark.slow
def test_density_and_shares_are_those_asked_for() -> None:
    config = SynthConfig(size_wh=(1500, 1500), mpp=0.4, red_cells=5000, white_cells=400, platelets=900, blast_share=0.5)
    counts = render(config, 8)[1].counts()
    area = 0.6**2
    assert counts["rbc"] / area == pytest.approx(5000, rel=0.15)
    assert counts["platelet"] / area == pytest.approx(900, rel=0.25)
    assert (counts["blast"] + counts["wbc"]) / area == pytest.approx(400, rel=0.3)
    assert counts["blast"] / (counts["blast"] + counts["wbc"]) == pytest.approx(0.5, abs=0.15)


def test_empty_film_and_film_without_blasts() -> None:
    bare = {"red_cells": 0, "white_cells": 0, "platelets": 0, "smudges": 0, "debris": 0}
    image, truth = render(configure(size_wh=(200, 150), noise=0, jpeg_quality=None, **bare), 1)
    assert len(truth) == 0
    assert image.std(axis=(0, 1)).max() < 6
    healthy = render(SynthConfig(size_wh=(800, 800), mpp=0.3, blast_share=0, white_cells=2000), 1)[1]
    assert healthy.counts()["blast"] == 0
    assert healthy.counts()["wbc"] > 10


@pytest.mark.slow
def test_smudges_and_slivers_are_ignored_and_dirt_is_not_in_truth() -> None:
    config = SynthConfig(size_wh=(900, 900), mpp=0.2, smudges=800, debris=3000, white_cells=100)
    _, truth = render(config, 3)
    assert truth.ignore is not None
    assert truth.cell_type is not None
    smudge = truth.cell_type == "smudge"
    assert smudge.sum() > 3
    assert truth.ignore[smudge].all()
    at_edge = (truth.boxes_xyxy[:, :2] == 0).any(1) | (truth.boxes_xyxy[:, 2:] == 900).any(1)
    assert at_edge[truth.ignore & ~smudge].all()
    near = Scene(config, 3).near((0, 0, 180, 180))
    assert sum(c.kind == DEBRIS for c in near) > 20
    assert len(truth) <= sum(c.kind != DEBRIS for c in near)


def test_white_cells_do_not_lie_on_each_other() -> None:
    film = Scene(SynthConfig(white_cells=4000, blast_share=0.6), 7)
    white = [c for c in film.near((0, 0, 400, 400)) if c.kind in (WBC, BLAST, SMUDGE)]
    x, y, r = (np.array([getattr(c, name) for c in white]) for name in ("x", "y", "radius"))
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(len(white), 1e6))
    assert len(white) > 100
    # Pairs of blocks of one colour do not see each other, but they are a block apart: no exception.
    assert (distance / (r[:, None] + r)).min() > 0.9


def test_place_of_a_cell_does_not_depend_on_what_was_asked_first() -> None:
    config = SynthConfig()
    first, second = Scene(config, 11), Scene(config, 11)
    second.near((400, 300, 500, 420))
    assert first.near((0, 0, 200, 200)) == second.near((0, 0, 200, 200))


def test_no_cell_reaches_beyond_its_patch() -> None:
    for kind, cell_type, radius in ((SMUDGE, "smudge", 10.0), (WBC, "monocyte", 10.0), (RBC, "", 4.1)):
        for seed in range(12):
            patch = draw(Cell(kind, cell_type, 50.0, 50.0, radius, seed), STAINS["bccd"], (0.2, 0.2))
            frame = np.ones(patch.mask.shape, bool)
            frame[1:-1, 1:-1] = False
            assert not patch.mask[frame].any()
            assert np.abs(patch.density[frame]).max() < 0.02 * OD_UNIT
            assert max(patch.mask.shape) * 0.2 <= 2 * MAX_REACH_UM + 1


@pytest.mark.slow
@pytest.mark.parametrize("palette", PALETTES)
def test_nuclei_are_the_darkest_and_background_the_lightest(palette: str) -> None:
    for seed in range(3):
        config = configure(size_wh=(500, 400), mpp=0.2, palette=palette, white_cells=1500, noise=0, jpeg_quality=None)
        image, truth = render(config, seed)
        white = truth.with_classes("blast", "wbc")
        white = white[~white.ignore] if white.ignore is not None else white
        centres = white.centres_xy.astype(int)
        at = np.median(image[centres[:, 1], centres[:, 0]].sum(axis=1))
        covered = np.zeros(image.shape[:2], bool)
        for x1, y1, x2, y2 in truth.boxes_xyxy.astype(int):
            covered[y1:y2, x1:x2] = True
        bare = np.median(image[~covered].sum(axis=1))
        red = truth.with_classes("rbc").centres_xy.astype(int)
        between = np.median(image[red[:, 1], red[:, 0]].sum(axis=1))
        assert at < between < bare


def test_varied_stays_valid_and_differs() -> None:
    config = SynthConfig(palette="random")
    seen = [varied(config, seed) for seed in range(30)]
    assert len({c.noise for c in seen}) == 30
    assert {c.size_wh for c in seen} == {config.size_wh}
    assert varied(config, 3) == varied(config, 3)


@pytest.mark.parametrize(
    ("settings_", "word"),
    [
        ({"mpp": 7}, "mpp"),
        ({"palette": "giemsa"}, "palette"),
        ({"size_wh": (0, 5)}, "size_wh"),
        ({"size_wh": (100_000, 100_000)}, "size_wh"),
        ({"blast_share": 2}, "blast_share"),
        ({"colour": 1}, "colour"),
    ],
)
def test_bad_settings_are_one_line(settings_: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        configure(**settings_)
    assert "\n" not in str(error.value)


def test_over_a_gigapixel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1000000000"):
        render_tiff(tmp_path / "x.tif", (50_000, 50_000), SMALL, 1)
    assert not list(tmp_path.iterdir())


def test_command_writes_images_and_truth_that_read_back(tmp_path: Path) -> None:
    out = tmp_path / "films"
    arguments = [str(out), "--size", "400x300", "--n", "2", "--palette", "random", "--vary", "--seed", "5"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["smear_0000.jpg", "smear_0001.jpg", "truth.json"]
    dataset = coco.read(out / "truth.json")
    config = varied(SynthConfig(size_wh=(400, 300), palette="random"), 6)
    expected = render(config, 6)[1]
    assert dataset.samples[1].truth is not None
    same(dataset.samples[1].truth.sorted(), expected)


def test_command_writes_tiff_with_truth_beside_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "slide.tif"), "--size", "500x300", "--mpp", "0.25"])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "slide.json").read_text(encoding="utf-8"))
    assert document["images"][0]["mpp"] == [0.25, 0.25]
    assert {c["name"] for c in document["categories"]} == {"blast", "wbc", "rbc", "platelet"}


@pytest.mark.parametrize(
    "arguments", [["--size", "big"], ["--mpp", "9"], ["--palette", "pink"], ["--size", "90000x90000"]]
)
def test_command_refuses_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "x"), *arguments])
    assert isinstance(result.exception, BlastdetError)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_command_does_not_put_many_images_into_one_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "x.png"), "--n", "2"])
    assert isinstance(result.exception, ConfigError)


def test_a_folder_of_films_is_a_data_set(tmp_path):
    from click.testing import CliRunner

    from blastdet.cli import cli
    from blastdet.datasets.formats import registry

    assert (
        CliRunner().invoke(cli, ["synth", str(tmp_path), "--n", "2", "--size", "96x96", "--mpp", "0.3"]).exit_code == 0
    )
    dataset = registry.read(tmp_path)
    assert len(dataset) == 2 and dataset.samples[0].mpp == (0.3, 0.3)
