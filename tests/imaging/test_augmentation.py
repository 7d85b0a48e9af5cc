"""Stain jitter: accepts any image, is reproducible, and keeps the order of grey levels."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from blastdet.imaging.augmentation import jitter_stain

images = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))


@given(rgb=images, seed=st.integers(0, 99), strength=st.floats(0, 3))
@settings(max_examples=80, deadline=None)
def test_the_same_seed_gives_the_same_image(rgb, seed, strength):
    before = rgb.copy()
    out = jitter_stain(rgb, strength, np.random.default_rng(seed))
    assert out.shape == rgb.shape and out.dtype == np.uint8
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(out, jitter_stain(rgb, strength, np.random.default_rng(seed)))
    if strength == 0:
        np.testing.assert_array_equal(out, rgb)


def test_the_order_of_grey_levels_is_kept():
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(20):
        out = jitter_stain(ramp, 0.3, np.random.default_rng(seed)).astype(int)
        assert (np.diff(out.mean(axis=2)) >= -0.7).all()


def test_images_differ_more_with_a_higher_strength():
    cell, background = np.full((8, 8, 3), (150, 90, 170), np.uint8), np.full((8, 8, 3), (235, 230, 225), np.uint8)
    image = np.concatenate([cell, background])

    def spread(strength):
        out = [jitter_stain(image, strength, np.random.default_rng(seed)).astype(float) for seed in range(60)]
        return np.std([one.mean(axis=(0, 1)) for one in out], axis=0).mean()

    assert 1 < spread(0.3) < spread(1.0)
