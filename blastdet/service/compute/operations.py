"""What a child process does: look into a file, detect cells, draw."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blastdet.core.errors import BlastdetError
from blastdet.core.model_card import Card
from blastdet.core.types import RGB
from blastdet.datasets.corrections import from_rows
from blastdet.imaging import drawing
from blastdet.imaging.io import Source, encode_image, image_size, is_tiff, open_smear
from blastdet.inference.model import Model, Options, load
from blastdet.inference.outputs.cell_record import cell_record
from blastdet.inference.outputs.corrected_result import corrected_result
from blastdet.inference.outputs.region_result import analyze_region
from blastdet.inference.outputs.result_record import from_record, to_record
from blastdet.inference.outputs.run_page import sheet_rows
from blastdet.inference.result import Result
from blastdet.inference.writers import json_lines
from blastdet.service.compute.overview import WithOverview, open_overview, overview_of
from blastdet.service.compute.tiles import block_around, tile_of
from blastdet.viewer.pictures import QUALITY, crops_of, picture_of, sheet_of

_LARGE_PIXELS = 16 * 10**6  # an image of fewer is decoded in an instant

Answer = tuple[dict[str, Any], bytes]
Args = dict[str, Any]


@dataclass
class Operations:
    """Answers requests, and keeps loaded models and the last image between them.

    Parameters
    ----------
    device : str
        As for `blastdet.load`.
    progress : callable
        Called with tiles done and tiles in all; may raise to end the request.
    """

    device: str
    progress: Callable[[int, int], None]
    _open: dict[tuple[str, str | None], Source] = field(default_factory=dict)

    def do(self, name: str, args: Args, payload: bytes) -> Answer:
        """The answer to one request: what it found, and the bytes of a file.

        Raises
        ------
        BlastdetError
            If the image or an argument is at fault.
        """
        if name == "detect":
            return self._detect(args, payload)
        known: dict[str, Callable[[Args], Answer]] = {
            "inspect": self._inspect,
            "analyze": self._analyze,
            "tile": self._tile,
            "picture": self._picture,
            "overview": self._overview,
            "crop": self._crop,
            "sheet": self._sheet,
            "overlay": self._overlay,
            "pdf": self._pdf,
        }
        return known[name](args)

    def model(self, folder: str) -> Model:
        """The model of a weights folder, loaded once."""
        return load(folder, self.device)

    def forget(self) -> None:
        """Drop decoded images."""
        for source in self._open.values():
            source.close()
        self._open.clear()

    def _source(self, args: Args) -> Source:
        """An open image; the last one stays open, because tiles are asked for one after the other."""
        path, overview = key = args["path"], args.get("overview")
        if key not in self._open:
            self.forget()
            with contextlib.ExitStack() as opened:
                source = opened.enter_context(open_smear(path))
                if overview is not None:
                    source = WithOverview(source, opened.enter_context(open_overview(overview)))
                opened.pop_all()  # stays open
            self._open[key] = source
        return self._open[key]

    def _inspect(self, args: Args) -> Answer:
        with open_smear(args["path"]) as source:
            mpp = None if source.mpp is None else list(source.mpp)
            return {"size_wh": list(source.size_wh), "mpp": mpp, "notes": list(source.notes)}, b""

    def _result(self, path: str, args: Args) -> tuple[Result, Model]:
        model = self.model(args["weights"])
        options = Options(args.get("mpp"), args.get("min_score"))
        region = args.get("region")
        try:
            _check_pixels(path, args.get("most_pixels"))
            if region is None:
                result = model.analyze(path, options, self.progress)
            else:
                result = analyze_region(model, path, region, options, self.progress)
        except BlastdetError as error:  # people know the image by its name
            line = str(error).replace(path, args["name"])
            line = line.replace("Pass --mpp (µm per pixel)", "Give the scale: mpp, in µm/px")  # no command line here
            raise type(error)(line) from error
        return replace(result, name=args["name"]), model

    def _detect(self, args: Args, payload: bytes) -> Answer:
        with _as_file(payload) as path:
            result, _ = self._result(path, args)
        return {"seconds": result.seconds}, "".join(json_lines(result)).encode()

    def _analyze(self, args: Args) -> Answer:
        self.forget()
        result, model = self._result(args["path"], args)
        classes = () if model.classifier is None else model.classifier.card.classes
        record = to_record(result, classes)
        return {"seconds": result.seconds}, json.dumps(record, ensure_ascii=False, allow_nan=False).encode()

    def _tile(self, args: Args) -> Answer:
        """A tile; of an image that is large and decoded as a whole, those around it come with it."""
        source, zoom, place = self._source(args), args["z"], (args["x"], args["y"])
        first = _jpeg(tile_of(source, zoom, *place))
        if source.size_wh[0] * source.size_wh[1] < _LARGE_PIXELS or is_tiff(args["path"]):
            return {}, first
        more = {
            f"{zoom}-{x}-{y}.jpg": _jpeg(tile_of(source, zoom, x, y))
            for x, y in block_around(source.size_wh, zoom, *place)
            if (x, y) != place
        }
        return {"more": [(name, len(one)) for name, one in reversed(more.items())]}, b"".join((first, *more.values()))

    def _picture(self, args: Args) -> Answer:
        return {}, _jpeg(picture_of(self._source(args)))

    def _overview(self, args: Args) -> Answer:
        return {}, overview_of(self._source(args), self.progress)

    def _crop(self, args: Args) -> Answer:
        box = tuple(args["box"])
        (crop,) = crops_of(self._source(args), [box], tuple(args["mpp"]))
        return {}, _jpeg(crop)

    def _sheet(self, args: Args) -> Answer:
        result = self._recorded(args)
        boxes = result.detections.boxes_xyxy.astype(float).tolist()
        rows = sheet_rows(cell_record(result.detections))
        if not rows:
            raise BlastdetError("sheet: the result has no nucleated cells")
        return {}, _jpeg(sheet_of(self._source(args), [tuple(boxes[row]) for row in rows], result.mpp))

    def _recorded(self, args: Args, card: Card | None = None) -> Result:
        """A kept result, with its corrections; `card` of the classifier where its error rates matter."""
        record = json.loads(Path(args["record"]).read_bytes())
        result = from_record(record, Path(args["path"]))
        trials = () if card is None else card.trials
        rows = from_rows(args.get("corrections", []))
        corrected = corrected_result(result, rows, record["classifier_classes"], trials)
        return replace(corrected, name=args.get("name", result.name))

    def _overlay(self, args: Args) -> Answer:
        result = self._recorded(args)
        shown = result.without(args.get("hidden", []))
        source = self._source(args)
        return {}, _jpeg(drawing.draw(source, shown, result.mpp, result.shown_counts, result.name), 90)

    def _pdf(self, args: Args) -> Answer:
        from blastdet.inference.outputs.pdf_report import pdf_of_result

        classifier = self.model(args["weights"]).classifier
        card = None if classifier is None else classifier.card
        result = self._recorded(args, card)
        return {}, pdf_of_result(result, card, self._source(args), args.get("hidden", []), args.get("review", ""))


def _check_pixels(path: str, most: int | None) -> None:
    width, height = image_size(path) if most else (0, 0)
    if most and width * height > most:
        got = f"expected at most {most // 10**6} megapixels, got {-(-width * height // 10**6):,}"
        raise BlastdetError(f"image: {got}. Send it as a smear: POST /smears")


def _jpeg(rgb: RGB, quality: int = QUALITY) -> bytes:
    return encode_image(rgb, ".jpg", quality)


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Bytes under the name of a file: in memory where the system can, else on disk for a moment."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("image", 0)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.name
