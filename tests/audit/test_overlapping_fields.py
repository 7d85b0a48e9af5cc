"""Overlapping fields and copies: known shifts are found, unrelated images are not paired."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastdet.audit.overlapping_fields import connected, find_near_duplicates, find_overlaps
from blastdet.core.errors import ImageError
from blastdet.imaging.io import write_image

Image = NDArray[np.uint8]
W, H = 320, 240

# Pairs of BCCD that overlap_pairs.csv lacks; checked side by side by eye.
CHECKED_BY_EYE = {(225, 264), (364, 409), (207, 279), (231, 255), (44, 45), (255, 256), (223, 224), (147, 148)}


def blood(seed: int, size_wh: tuple[int, int] = (3 * W, 3 * H)) -> Image:
    """A large field: red cells with pallor, and some nucleated cells."""
    rng = np.random.default_rng(seed)
    whole = np.full((size_wh[1], size_wh[0], 3), (232, 228, 235), np.uint8)
    for _ in range(size_wh[0] * size_wh[1] // 3500):
        x, y, r = int(rng.integers(size_wh[0])), int(rng.integers(size_wh[1])), int(rng.integers(19, 27))
        axes = (r, int(r * rng.uniform(0.75, 1)))
        cv2.ellipse(whole, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, (205, 150, 160), -1, cv2.LINE_AA)
        cv2.circle(whole, (x, y), r // 3, (222, 190, 198), -1, cv2.LINE_AA)
    for _ in range(size_wh[0] * size_wh[1] // 60000):
        x, y = int(rng.integers(size_wh[0])), int(rng.integers(size_wh[1]))
        cv2.circle(whole, (x, y), int(rng.integers(28, 40)), (95, 60, 150), -1, cv2.LINE_AA)
    noise = rng.normal(0, 3, whole.shape)
    return np.clip(whole + noise, 0, 255).astype(np.uint8)


def field(whole: Image, x: int, y: int) -> Image:
    return whole[y : y + H, x : x + W].copy()


def save(folder: Path, **images: Image) -> list[Path]:
    for name, image in images.items():
        write_image(folder / f"{name}.png", image)
    return [folder / f"{name}.png" for name in images]


def unrelated(folder: Path, n: int = 6) -> list[Path]:
    return save(folder, **{f"s{k}": field(blood(100 + k, (W, H)), 0, 0) for k in range(n)})


@pytest.mark.parametrize("shift", [(0, 0), (100, -30), (-7, 3), (0, 150), (200, 60), (-210, -20)])
def test_the_shift_is_found_and_unrelated_images_are_not(tmp_path: Path, shift: tuple[int, int]) -> None:
    whole = blood(1)
    pair = save(tmp_path, a=field(whole, 300, 200), b=field(whole, 300 + shift[0], 200 + shift[1]))
    found = find_overlaps([*unrelated(tmp_path), *pair], workers=1)
    assert [(o.a, o.b) for o in found] == [tuple(pair)]
    assert (found[0].dx, found[0].dy) == pytest.approx(shift, abs=1.01)
    shared = (W - abs(shift[0])) * (H - abs(shift[1])) / (W * H)
    assert found[0].overlap_fraction == pytest.approx(shared, abs=0.06)


def test_other_brightness_focus_and_compression(tmp_path: Path) -> None:
    whole = blood(2)
    a, b = field(whole, 300, 200), field(whole, 390, 260)
    slope = np.linspace(0.7, 1.0, W)[None, :, None]
    b = cv2.GaussianBlur((b * slope * np.array([0.9, 1.0, 0.8])).astype(np.uint8), (0, 0), 1.5)
    paths = save(tmp_path, a=a)
    write_image(tmp_path / "b.jpg", b, quality=60)
    found = find_overlaps([*unrelated(tmp_path), *paths, tmp_path / "b.jpg"], workers=1)
    assert [(round(o.dx / 3), round(o.dy / 3)) for o in found] == [(30, 20)]


def test_too_small_a_shared_part_is_not_a_pair(tmp_path: Path) -> None:
    whole = blood(3)
    paths = save(tmp_path, a=field(whole, 300, 200), b=field(whole, 300 + 224, 200))  # 30 % shared
    assert len(find_overlaps(paths, workers=1)) == 1
    assert find_overlaps(paths, min_fraction=0.4, workers=1) == []


def test_a_burnt_in_mark_makes_no_pair_and_hides_none(tmp_path: Path) -> None:
    whole = blood(4)
    images = {f"s{k}": field(blood(200 + k, (W, H)), 0, 0) for k in range(5)}
    images |= {"a": field(whole, 300, 200), "b": field(whole, 360, 230)}
    for image in images.values():
        cv2.rectangle(image, (250, 200), (315, 235), (255, 255, 255), -1)
        cv2.putText(image, "200 um", (252, 222), 0, 0.5, (0, 0, 0), 2)
    found = find_overlaps(save(tmp_path, **images), workers=1)
    assert [(o.a.stem, o.b.stem) for o in found] == [("a", "b")]


def test_a_smaller_part_of_an_image_is_found(tmp_path: Path) -> None:
    whole = blood(5)
    paths = save(tmp_path, a=field(whole, 300, 200), cut=whole[240:400, 360:560].copy())
    found = find_overlaps([*unrelated(tmp_path), *paths], workers=1)
    assert [(o.a.stem, o.b.stem) for o in found] == [("a", "cut")]
    assert (found[0].dx, found[0].dy) == pytest.approx((60, 40), abs=1.01)
    assert found[0].overlap_fraction == pytest.approx(1, abs=0.02)


def test_blank_and_tiny_images_are_no_pair(tmp_path: Path) -> None:
    blank = np.full((H, W, 3), 230, np.uint8)
    paths = save(tmp_path, a=blank, b=blank, c=blank[:5, :7], d=blank[:1, :1])
    assert find_overlaps(paths, workers=1) == []
    assert find_near_duplicates(paths) == []


def test_threads_change_nothing_and_order_only_names_the_pair(tmp_path: Path) -> None:
    whole = blood(6)
    paths = unrelated(tmp_path) + save(tmp_path, a=field(whole, 300, 200), b=field(whole, 390, 200))
    one = find_overlaps(paths, workers=1)
    assert find_overlaps(paths, workers=4) == one
    back = find_overlaps(paths[::-1], workers=1)
    assert [(o.a, o.b, -o.dx, -o.dy) for o in back] == [(o.b, o.a, o.dx, o.dy) for o in one]


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert find_overlaps([]) == []
    assert find_overlaps(unrelated(tmp_path, 1)) == []
    assert find_near_duplicates([]) == []


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        find_overlaps([*unrelated(tmp_path, 1), broken])


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    find_overlaps(unrelated(tmp_path, 3), progress=lambda what, done, total: seen.__setitem__(what, (done, total)))
    assert set(seen) == {"reading", "comparing", "registering"}
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrored_and_turned_copies_are_found(tmp_path: Path, turns: int, mirrored: bool) -> None:
    original = field(blood(7), 300, 200)
    copy = np.rot90(original[:, ::-1] if mirrored else original, -turns)
    brighter = np.clip(copy.astype(float) * 0.8 + 20, 0, 255).astype(np.uint8)
    smaller = cv2.resize(brighter, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    paths = [*unrelated(tmp_path), *save(tmp_path, a=original, b=np.ascontiguousarray(smaller))]
    found = find_near_duplicates(paths)
    assert [(d.a.stem, d.b.stem) for d in found] == [("a", "b")]
    turned = f"turned {90 * turns}°" if turns else ""
    words = ", ".join(filter(None, ["mirrored" if mirrored else "", turned]))
    assert found[0].change == (words or "unchanged")


def test_groups_are_transitive_and_do_not_depend_on_order() -> None:
    a, b, c, d, e = (Path(name) for name in "abcde")
    groups = connected([(c, b), (d, e), (b, a)])
    assert groups == {a: "a", b: "a", c: "a", d: "d", e: "d"}
    assert connected([(b, a), (e, d), (b, c)]) == groups
    assert connected([]) == {}


@pytest.mark.realdata
def test_bccd_listed_pairs_are_found_with_their_shift_and_no_false_one(data_dir: Path) -> None:
    """All images of a listed or checked pair, and about as many others."""
    with (data_dir / "bccd" / "overlap_pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    listed = {(row["a"], row["b"]): (float(row["dx"]), float(row["dy"])) for row in rows}
    everything = sorted((data_dir / "bccd" / "BCCD" / "JPEGImages").glob("*.jpg"))
    known = {name for pair in listed for name in pair} | {f"BloodImage_{n:05d}" for p in CHECKED_BY_EYE for n in p}
    others = [path for path in everything if path.stem not in known][::12]
    paths = sorted([path for path in everything if path.stem in known] + others)
    found = {(o.a.stem, o.b.stem): (o.dx, o.dy) for o in find_overlaps(paths)}
    assert set(listed) <= set(found)
    assert all(found[pair] == pytest.approx(shift, abs=5) for pair, shift in listed.items())  # listed in steps of 4 px
    beyond = {(int(a[-5:]), int(b[-5:])) for a, b in set(found) - set(listed)}
    assert beyond == CHECKED_BY_EYE
