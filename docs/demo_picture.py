"""Draw docs/images/overlay.jpg, the picture of the README: six of the demo images with what blastdet finds on them.

python docs/demo_picture.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

REPO = Path(__file__).resolve().parents[1]
BLOOD = REPO / "datasets" / "demo" / "blood"
SHOWN = ("field-BloodImage_00037", "aml-blast-2", "neutrophil", "monocyte", "eosinophil", "lymphocyte")
PANEL_WH, GAP, COLUMNS = (400, 400), 8, 3


def main() -> None:
    """Detect, take the overlays without their captions, and put them side by side."""
    width, height = (n * (side + GAP) - GAP for n, side in zip((COLUMNS, len(SHOWN) // COLUMNS), PANEL_WH, strict=True))
    sheet = Image.new("RGB", (width, height), "white")
    with tempfile.TemporaryDirectory() as folder:
        words = ["detect", str(BLOOD), "--out", folder, "--format", "overlay"]
        subprocess.run([sys.executable, "-m", "blastdet", *words], check=True)
        for number, name in enumerate(SHOWN):
            with Image.open(BLOOD / f"{name}.jpg") as plain, Image.open(Path(folder, f"{name}.overlay.jpg")) as overlay:
                drawn_height = round(overlay.width * plain.height / plain.width)
                side = min(overlay.width, drawn_height)
                left = overlay.width - side  # of a field, the square at its right edge
                panel = overlay.crop((left, 0, left + side, side)).resize(PANEL_WH, Image.Resampling.LANCZOS)
            row, column = divmod(number, COLUMNS)
            sheet.paste(panel, (column * (PANEL_WH[0] + GAP), row * (PANEL_WH[1] + GAP)))
    sheet.save(REPO / "docs" / "images" / "overlay.jpg", quality=85)


if __name__ == "__main__":
    main()
