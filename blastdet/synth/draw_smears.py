"""Synthetic smears as image files, and as a dataset with exact ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blastdet.core.types import CELL_CLASSES, Dataset, Sample
from blastdet.imaging.io import write_image
from blastdet.synth.render import render, render_tiff
from blastdet.synth.scene import SynthConfig, varied


def draw_smears(
    folder: str | Path,
    n: int = 1,
    config: SynthConfig = SynthConfig(),  # noqa: B008  # frozen
    *,
    seed: int = 0,
    vary: bool = False,
) -> Dataset:
    """Draw synthetic smears, as JPEG files, or as tiled TIFF files above 50 megapixels.

    Parameters
    ----------
    folder : str or Path
        Created if it does not exist.
    n : int
        Number of images.
    config : SynthConfig
        Size, µm/px, stain, and how many cells of which class.
    seed : int
        The same seed gives the same images.
    vary : bool
        Give each image its own cell density, focus, brightness and noise.

    Returns
    -------
    Dataset
        The images with their ground truth.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = draw_smears(folder, 2, SynthConfig(size_wh=(320, 240), mpp=0.2))
    >>> [sample.path.name for sample in data]
    ['smear_0000.jpg', 'smear_0001.jpg']
    """
    suffix = ".tif" if config.size_wh[0] * config.size_wh[1] > _TIFF_FROM_PX else ".jpg"
    names = ["smear"] if n == 1 else [f"smear_{i:04d}" for i in range(n)]
    Path(folder).mkdir(parents=True, exist_ok=True)
    return draw_files([Path(folder, f"{name}{suffix}") for name in names], config, seed, vary=vary)


_TIFF_FROM_PX = 50_000_000


def draw_files(files: Sequence[Path], config: SynthConfig, seed: int, *, vary: bool = False) -> Dataset:
    """Draw one synthetic smear per file.

    Parameters
    ----------
    files : sequence of Path
        The suffix selects the format. All are in one folder, which must exist.
    config : SynthConfig
    seed : int
        File ``i`` is drawn with ``seed + i``.
    vary : bool
        Apply `varied` to the config of each file.

    Returns
    -------
    Dataset

    Raises
    ------
    ImageError
        If a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = draw_files([Path(folder, "a.png")], SynthConfig(size_wh=(320, 240), mpp=0.2), seed=1)
    >>> data.samples[0].size_wh
    (320, 240)
    """
    samples = [_draw(path, varied(config, seed + i) if vary else config, seed + i) for i, path in enumerate(files)]
    return Dataset("synthetic smears", files[0].parent, tuple(samples), notes=("rendered by blastdet synth",))


def _draw(path: Path, config: SynthConfig, seed: int) -> Sample:
    if path.suffix.lower() in {".tif", ".tiff"}:
        truth = render_tiff(path, config.size_wh, config, seed)
    elif path.suffix.lower() in {".jpg", ".jpeg"}:  # compressed only once, when the file is written
        image, truth = render(config.model_copy(update={"jpeg_quality": None}), seed)
        write_image(path, image, quality=config.jpeg_quality or 95)
    else:
        image, truth = render(config, seed)
        write_image(path, image)
    return Sample(path, config.size_wh, mpp=config.mpp_xy, group=path.stem, annotated=CELL_CLASSES, truth=truth)
