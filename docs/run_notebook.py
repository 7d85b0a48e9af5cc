"""Execute a notebook with this Python, and print it with its outputs or, with --save, store them in it.

python docs/run_notebook.py notebooks/first-look.ipynb --save        (in the folder of the checkout)
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image


def main(path: Path, save: bool) -> None:
    """Run all cells in the working directory; an error in a cell ends with its traceback."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        for output in cell.get("outputs", []):
            _compress(output.get("data", {}))
    if save:
        nbformat.write(notebook, path)
    else:
        sys.stdout.write(nbformat.writes(notebook))


def _compress(data: dict[str, Any]) -> None:
    """Store photographs as JPEG: a tenth of the size of PNG."""
    png = data.get("image/png", "")
    if len(png) > 100_000:
        image, jpeg = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
        image.convert("RGB").save(jpeg, "JPEG", quality=85)
        del data["image/png"]
        data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--save" in sys.argv[2:])
