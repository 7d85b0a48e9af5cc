"""Synthetic smears: exact ground truth, parts that equal the whole, and realistic sizes of cells."""

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


def test_the_seed_determines_the_smear() -> None:
    image, truth = render(SMALL, 5)
    again, truth_again = render(SMALL, 5)
    np.testing.assert_array_equal(image, again)
    same(truth, truth_again)
    assert (render(SMALL, 6)[0] != image).mean() > 0.5


@pytest.mark.parametrize("quality", [None, 80])
def test_the_image_does_not_depend_on_the_parts_rendered_at_once(quality: int | None) -> None:
    config = SMALL.model_copy(update={"jpeg_quality": quality, "aspect": 1.3})
    whole, truth = render(config, 3)
    for tiles_wh in ((1, 1), (2, 3), (9, 1)):
        part, truth_part = render(config, 3, tiles_wh=tiles_wh)
        np.testing.assert_array_equal(whole, part)
        same(truth, truth_part)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(w=st.integers(1, 600), h=st.integers(1, 600), seed=st.integers(0, 10**9))
def test_images_of_any_size(w: int, h: int, seed: int) -> None:
    image, truth = render(SynthConfig(size_wh=(w, h), mpp=0.2), seed)
    assert image.shape == (h, w, 3)
    assert (truth.boxes_xyxy == boxes.clip(truth.boxes_xyxy, (w, h))).all()
    assert (boxes.area(truth.boxes_xyxy) > 0).all()


def test_a_lossless_tiff_equals_the_image_in_memory(tmp_path: Path) -> None:
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


def test_a_jpeg_tiff_resembles_the_image_in_memory(tmp_path: Path) -> None:
    render_tiff(tmp_path / "smear.tif", (700, 520), SMALL, 9)
    image = tifffile.imread(tmp_path / "smear.tif").astype(int)
    assert np.abs(image - render(SMALL, 9)[0]).mean() < 1.5


@pytest.mark.slow
def test_a_wide_tiff_that_is_rendered_in_several_parts(tmp_path: Path) -> None:
    config = SynthConfig(size_wh=(2900, 300), mpp=0.3, jpeg_quality=None)
    render_tiff(tmp_path / "wide.tif", config.size_wh, config, 2)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "wide.tif"), render(config, 2)[0])


def test_no_incomplete_file_remains(tmp_path: Path) -> None:
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
    """Compared with the extent of the rendered density, which does not use the outline that boxes are made from."""
    stain = replace(STAINS[palette], halo=0.0)
    soft = 5  # px: the ramp at an outline is 0.4 µm wide
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


def test_boxes_match_the_cells_in_the_image() -> None:
    """The difference between an image with and without cells lies in the boxes, and every box contains a difference."""
    bare = {"red_cells": 0, "white_cells": 0, "platelets": 0, "smudges": 0}
    plain = {"size_wh": (640, 500), "debris": 0, "noise": 0, "blur_um": 0, "jpeg_quality": None, "palette": "pbc"}
    image, truth = render(configure(**plain), 13)
    empty, _ = render(configure(**(plain | bare)), 13)
    changed = np.abs(image.astype(int) - empty).max(axis=2) > 25
    covered = np.zeros(changed.shape, bool)
    for x1, y1, x2, y2 in truth.boxes_xyxy.astype(int):
        covered[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True  # the soft edge extends beyond the box
        inside = changed[y1:y2, x1:x2]
        assert inside.mean() > 0.3
        assert inside[[0, -1]].any() or (x2 - x1) < 12
    assert (changed & ~covered).sum() < 0.002 * changed.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("mpp", "aspect"), [(0.1, 1.0), (0.1, 1.33), (0.4, 1.0)])
def test_cells_have_realistic_sizes(mpp: float, aspect: float) -> None:
    size_um = 240
    size = (int(size_um / mpp / aspect), int(size_um / mpp))
    config = SynthConfig(size_wh=size, mpp=mpp, aspect=aspect, white_cells=1200, blast_fraction=0.5, smudges=0)
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
def test_densities_and_the_blast_fraction_follow_the_settings() -> None:
    config = SynthConfig(
        size_wh=(1500, 1500), mpp=0.4, red_cells=5000, white_cells=400, platelets=900, blast_fraction=0.5
    )
    counts = render(config, 8)[1].counts()
    area = 0.6**2
    assert counts["rbc"] / area == pytest.approx(5000, rel=0.15)
    assert counts["platelet"] / area == pytest.approx(900, rel=0.25)
    assert (counts["blast"] + counts["wbc"]) / area == pytest.approx(400, rel=0.3)
    assert counts["blast"] / (counts["blast"] + counts["wbc"]) == pytest.approx(0.5, abs=0.15)


def test_smears_without_cells_and_without_blasts() -> None:
    bare = {"red_cells": 0, "white_cells": 0, "platelets": 0, "smudges": 0, "debris": 0}
    image, truth = render(configure(size_wh=(200, 150), noise=0, jpeg_quality=None, **bare), 1)
    assert len(truth) == 0
    assert image.std(axis=(0, 1)).max() < 6
    healthy = render(SynthConfig(size_wh=(800, 800), mpp=0.3, blast_fraction=0, white_cells=2000), 1)[1]
    assert healthy.counts()["blast"] == 0
    assert healthy.counts()["wbc"] > 10


@pytest.mark.slow
def test_smudges_and_cut_cells_are_ignored_and_debris_is_not_in_the_ground_truth() -> None:
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


def test_white_cells_do_not_overlap() -> None:
    scene = Scene(SynthConfig(white_cells=4000, blast_fraction=0.6), 7)
    white = [c for c in scene.near((0, 0, 400, 400)) if c.kind in (WBC, BLAST, SMUDGE)]
    x, y, r = (np.array([getattr(c, name) for c in white]) for name in ("x", "y", "radius"))
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(len(white), 1e6))
    assert len(white) > 100
    # Holds across blocks of one colour too: they ignore each other, but are a block apart.
    assert (distance / (r[:, None] + r)).min() > 0.9


def test_cell_positions_do_not_depend_on_the_order_of_requests() -> None:
    config = SynthConfig()
    first, second = Scene(config, 11), Scene(config, 11)
    second.near((400, 300, 500, 420))
    assert first.near((0, 0, 200, 200)) == second.near((0, 0, 200, 200))


def test_cells_lie_within_their_patches() -> None:
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


def test_varied_settings_are_valid_and_differ() -> None:
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
        ({"blast_fraction": 2}, "blast_fraction"),
        ({"colour": 1}, "colour"),
    ],
)
def test_invalid_settings_give_a_one_line_error(settings_: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        configure(**settings_)
    assert "\n" not in str(error.value)


def test_more_than_a_gigapixel_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1000000000"):
        render_tiff(tmp_path / "x.tif", (50_000, 50_000), SMALL, 1)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_images_and_ground_truth_that_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "smears"
    arguments = [str(out), "--size", "400x300", "--n", "2", "--palette", "random", "--vary", "--seed", "5"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["smear_0000.jpg", "smear_0001.jpg", "truth.json"]
    dataset = coco.read(out / "truth.json")
    config = varied(SynthConfig(size_wh=(400, 300), palette="random"), 6)
    expected = render(config, 6)[1]
    assert dataset.samples[1].truth is not None
    same(dataset.samples[1].truth.sorted(), expected)


def test_the_command_writes_a_tiff_and_its_ground_truth(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "slide.tif"), "--size", "500x300", "--mpp", "0.25"])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "slide.json").read_text(encoding="utf-8"))
    assert document["images"][0]["mpp"] == [0.25, 0.25]
    assert {c["name"] for c in document["categories"]} == {"blast", "wbc", "rbc", "platelet"}


@pytest.mark.parametrize(
    "arguments", [["--size", "big"], ["--mpp", "9"], ["--palette", "pink"], ["--size", "90000x90000"]]
)
def test_invalid_options_give_a_one_line_error(tmp_path: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "x"), *arguments])
    assert isinstance(result.exception, BlastdetError)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_several_images_in_one_file_raise_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "x.png"), "--n", "2"])
    assert isinstance(result.exception, ConfigError)


def test_a_folder_of_smears_is_a_dataset(tmp_path):
    from click.testing import CliRunner

    from blastdet.cli import cli
    from blastdet.datasets.formats import registry

    assert (
        CliRunner().invoke(cli, ["synth", str(tmp_path), "--n", "2", "--size", "96x96", "--mpp", "0.3"]).exit_code == 0
    )
    dataset = registry.read(tmp_path)
    assert len(dataset) == 2 and dataset.samples[0].mpp == (0.3, 0.3)
