"""``blastdet synth``: blood films that nobody had to give blood for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from blastdet.core.types import Sample
    from blastdet.synth.render import SynthConfig

_TIFF_FROM_PX = 50_000_000


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", default="1600x1200", show_default=True, metavar="WxH", help="Pixels, up to a gigapixel in all.")
@click.option("--mpp", default=0.1, show_default=True, help="Micrometres per pixel, 0.04 to 1.")
@click.option("--palette", default="bccd", show_default=True, help="Stain: bccd, pbc, all, chula, or random.")
@click.option("--blasts", default=0.3, show_default=True, help="Share of the white cells that are blasts, 0 to 1.")
@click.option("--n", default=1, show_default=True, type=click.IntRange(1), help="Number of pictures.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed, the same pictures.")
@click.option("--vary", is_flag=True, help="Each picture with its own crowding, focus, light and noise.")
def command(out: Path, size: str, mpp: float, palette: str, blasts: float, n: int, seed: int, vary: bool) -> None:
    """Render synthetic blood films, with the exact box of every cell.

    OUT is a folder (made if need be), which gets smear.jpg, or smear_0000.jpg and so on, and truth.json; or a picture
    file, which gets its truth beside it under the same name ending in .json. The truth is COCO with blast, wbc, rbc
    and platelet; smudges are marked to be ignored. Folders get tiled BigTIFF for pictures over 50
    megapixels, written piece by piece; so does OUT ending in .tif.

    \b
    Example:
      blastdet synth films --n 20 --palette random --vary
      blastdet synth slide.tif --size 20000x20000 --mpp 0.25

    Exit codes: 0 done, 2 bad input. Research use only: no patient's blood, no diagnosis.
    """
    from blastdet.core.errors import ConfigError
    from blastdet.datasets.formats.files import check_replaced
    from blastdet.imaging.io import IMAGE_SUFFIXES
    from blastdet.synth.render import configure, varied

    is_file = out.suffix.lower() in IMAGE_SUFFIXES
    config = configure(size_wh=_size(size), mpp=mpp, palette=palette, blast_share=blasts)
    files, truth = _names(out, n, config) if not is_file else ([out], out.with_suffix(".json"))
    if is_file and n > 1:
        raise ConfigError(f"{out}: a picture file found, a folder expected with --n {n}")
    check_replaced(truth, "synthetic smears", "truth of synth")
    files[0].parent.mkdir(parents=True, exist_ok=True)
    smears = [_render(path, varied(config, seed + i) if vary else config, seed + i) for i, path in enumerate(files)]
    _write_truth(smears, truth)
    counts = [sample.truth.counts() for sample in smears if sample.truth is not None]
    total = ", ".join(f"{sum(c[name] for c in counts)} {name}" for name in counts[0])
    click.echo(f"wrote {len(files)} picture(s) to {files[0].parent} and {truth}: {total}")


def _size(text: str) -> tuple[int, int]:
    from blastdet.core.errors import ConfigError

    width, _, height = text.lower().partition("x")
    if not all(side.isascii() and side.isdecimal() and len(side) < 12 for side in (width, height)):
        raise ConfigError(f"--size: {text[:40]!r} found, WIDTHxHEIGHT in pixels expected, such as 2592x1944")
    return int(width), int(height)


def _names(folder: Path, n: int, config: SynthConfig) -> tuple[list[Path], Path]:
    suffix = ".tif" if config.size_wh[0] * config.size_wh[1] > _TIFF_FROM_PX else ".jpg"
    names = ["smear"] if n == 1 else [f"smear_{i:04d}" for i in range(n)]
    return [folder / f"{name}{suffix}" for name in names], folder / "truth.json"


def _render(path: Path, config: SynthConfig, seed: int) -> Sample:
    from blastdet.core.types import CELL_CLASSES, Sample
    from blastdet.imaging.io import write_image
    from blastdet.synth.render import render, render_tiff

    if path.suffix.lower() in {".tif", ".tiff"}:
        truth = render_tiff(path, config.size_wh, config, seed)
    elif path.suffix.lower() in {".jpg", ".jpeg"}:  # compressed once, by the file itself
        image, truth = render(config.model_copy(update={"jpeg_quality": None}), seed)
        write_image(path, image, quality=config.jpeg_quality or 95)
    else:
        image, truth = render(config, seed)
        write_image(path, image)
    return Sample(path, config.size_wh, mpp=config.mpp_xy, group=path.stem, annotated=CELL_CLASSES, truth=truth)


def _write_truth(smears: list[Sample], path: Path) -> None:
    from blastdet.core.atomic_io import write_text
    from blastdet.core.types import Dataset
    from blastdet.datasets.formats.coco_writer import document_pieces

    dataset = Dataset("synthetic smears", path.parent, tuple(smears), notes=("rendered by blastdet synth",))
    write_text(path, document_pieces(dataset))
