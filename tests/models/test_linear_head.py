"""Heads fitted to a laboratory: composition, the file, and their effect on a classifier."""

from __future__ import annotations

import io
import shutil
import zipfile

import numpy as np
import pytest
from colour_classifier import CLASSES, SIDE, write_colour_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.card_fields.blast_probability import Adaptation, logit
from blastdet.core.errors import WeightsError
from blastdet.core.model_card import HEAD, Calibration, read_card, sha256_of, write_card
from blastdet.models.classifier import load_classifier
from blastdet.models.linear_head import LinearHead, read_head
from blastdet.models.onnx_classifier import OnnxClassifier

RNG = np.random.default_rng(0)
HEADS = [
    LinearHead.scaling(1.7, -0.4),
    LinearHead(0.6, 2.0, RNG.normal(size=3), RNG.normal(size=3)),
    LinearHead(-1.2, 0.1, RNG.normal(size=3), RNG.normal(size=3)),
]
ADAPTATION = Adaptation(
    parent="colour",
    parent_sha256="0" * 64,
    method="last layer",
    reason="a test",
    uses_features=True,
    n_cells=20,
    n_blasts=10,
    smears={"a": 10, "b": 10},
    fingerprint="1" * 64,
    validation="none",
)


def _crops(n=5):
    return [np.full((SIDE, SIDE, 3), RNG.integers(0, 256, 3), np.uint8) for _ in range(n)]


def _adapted(folder, head):
    """Weights with a head, as `blastdet adapt` writes them."""
    write_colour_classifier(folder)
    head.write(folder / HEAD)
    card = read_card(folder)
    files = {**card.files, HEAD: sha256_of(folder / HEAD)}
    write_card(card.model_copy(update={"files": files, "adaptation": ADAPTATION}), folder)
    return folder


@pytest.mark.parametrize("first", HEADS)
@pytest.mark.parametrize("second", HEADS)
def test_composition_is_exact(first, second):
    z, features = RNG.normal(size=9) * 5, RNG.normal(size=(9, 3))
    np.testing.assert_allclose(second.after(first)(z, features), second(first(z, features), features), rtol=1e-12)


def test_a_head_is_read_as_written(tmp_path):
    for head in HEADS:
        head.write(tmp_path / HEAD)
        found = read_head(tmp_path / HEAD)
        assert (found.slope, found.offset) == (head.slope, head.offset)
        np.testing.assert_array_equal(found.centre, head.centre)
        np.testing.assert_array_equal(found.weights, head.weights)


def test_a_head_changes_the_blast_probability_and_rescales_the_others(tmp_path):
    write_colour_classifier(tmp_path / "plain")
    _adapted(tmp_path / "adapted", HEADS[1])
    plain, adapted = load_classifier(tmp_path / "plain", "cpu"), load_classifier(tmp_path / "adapted", "cpu")
    crops = _crops()
    before, after = plain(crops, [0.5] * 5), adapted(crops, [0.5] * 5)
    assert isinstance(plain, OnnxClassifier) and isinstance(adapted, OnnxClassifier)
    given = plain.evidence(crops, [0.5] * 5)
    np.testing.assert_allclose(given.logit, logit(before.probability[:, 0]), atol=1e-4)
    wanted = HEADS[1](given.logit, given.features)
    np.testing.assert_allclose(logit(after.probability[:, 0]), wanted, atol=1e-3)
    np.testing.assert_allclose(adapted.evidence(crops, [0.5] * 5).logit, wanted, atol=1e-9)
    np.testing.assert_allclose(after.probability.sum(axis=1), 1, atol=1e-6)
    others = [part[:, 1] / part[:, 2] for part in (before.probability, after.probability)]
    np.testing.assert_allclose(*others, rtol=1e-4)
    np.testing.assert_array_equal(before.distance, after.distance)
    assert after.probability.shape == (5, len(CLASSES)) and adapted([], []).probability.shape == (0, len(CLASSES))


def test_a_calibration_comes_before_the_head(tmp_path):
    card = read_card(_adapted(tmp_path / "w", HEADS[1]))
    scaled = Calibration(slope=0.5, offset=1.0, chosen_on="a test")
    plain = load_classifier(write_colour_classifier(tmp_path / "plain"), "cpu")
    crops = _crops()
    assert isinstance(plain, OnnxClassifier)
    given = plain.evidence(crops, [0.5] * 5)
    found = OnnxClassifier(card.model_copy(update={"calibration": scaled}), tmp_path / "w", "cpu")
    wanted = HEADS[1](0.5 * given.logit + 1.0, given.features)
    np.testing.assert_allclose(found.evidence(crops, [0.5] * 5).logit, wanted, atol=1e-9)


def test_a_missing_or_modified_head_is_an_error(tmp_path):
    whole = _adapted(tmp_path / "whole", HEADS[1])
    missing = shutil.copytree(whole, tmp_path / "missing")
    (missing / HEAD).unlink()
    with pytest.raises(WeightsError, match=r"head\.npz: listed in card\.json, but missing"):
        load_classifier(missing, "cpu")
    modified = shutil.copytree(whole, tmp_path / "modified")
    HEADS[2].write(modified / HEAD)
    with pytest.raises(WeightsError, match=r"head\.npz: expected sha256"):
        load_classifier(modified, "cpu")
    unlisted = shutil.copytree(whole, tmp_path / "unlisted")
    text = (unlisted / "card.json").read_text("utf-8")
    line = f'"{HEAD}": "{sha256_of(unlisted / HEAD)}"'
    assert line in text
    (unlisted / "card.json").write_text(text.replace(line, '"other.npz": "0"'), "utf-8")
    with pytest.raises(WeightsError, match=r"expected head\.npz if and only if adaptation\.uses_features"):
        load_classifier(unlisted, "cpu")


def test_a_head_for_another_network_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match=r"expected 2 features as in head\.npz, got"):
        load_classifier(_adapted(tmp_path / "w", LinearHead(1.0, 0.0, np.zeros(2), np.zeros(2))), "cpu")


def _npz(path, **arrays):
    with path.open("wb") as stream:
        np.savez(stream, **({"slope": 1.0, "offset": 0.0, "centre": np.zeros(3), "weights": np.zeros(3)} | arrays))


def _promising(path, header):
    """A file whose array claims a shape that it does not have."""
    _npz(path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | {"weights.npy": stream.getvalue()}).items():
            archive.writestr(name, content)


HUGE = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda path: path.write_bytes(bytes(2**20 + 1)),
        lambda path: _npz(path, weights=np.array([print], dtype=object)),
        lambda path: _npz(path, weights=np.zeros(3, np.float32)),
        lambda path: _npz(path, weights=np.full(3, np.nan)),
        lambda path: _npz(path, weights=np.zeros(4)),
        lambda path: _npz(path, weights=np.zeros((3, 1))),
        lambda path: _npz(path, slope=np.inf),
        lambda path: _npz(path, more=np.zeros(3)),
        lambda path: np.savez(path, slope=1.0),
        lambda path: np.savez_compressed(path, weights=np.zeros(10**6)),
        lambda path: _promising(path, HUGE),
        lambda path: _promising(path, HUGE | {"shape": (-1,)}),
    ],
)
def test_a_hostile_file_is_one_line(tmp_path, write):
    write(tmp_path / HEAD)
    with pytest.raises(
        WeightsError, match=r"head\.npz: expected the arrays slope, offset, centre, weights \(.*\)\. "
    ) as e:
        read_head(tmp_path / HEAD)
    assert "\n" not in str(e.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("head") / HEAD
    HEADS[1].write(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_head(path)
    except WeightsError as error:
        assert "\n" not in str(error)
