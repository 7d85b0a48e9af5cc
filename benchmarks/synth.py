"""Speed and memory of synthetic smears: ``python benchmarks/synth.py [--gigapixel]``.

Each size is rendered by ``blastdet synth`` in its own process, to a temporary folder. The table lists megapixels per
second of wall and processor time, and peak memory, which should not grow with the size.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = ("4000x2500", "12500x8000", "40000x25000")


def measure(size: str, folder: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak memory in MB of one run."""
    words = [sys.executable, "-m", "blastdet", "synth", str(folder / "smear.tif"), "--size", size, "--seed", "1"]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"blastdet synth --size {size}: exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigapixel", action="store_true", help="also render a gigapixel")
    sizes = SIZES if parser.parse_args().gigapixel else SIZES[:-1]
    head = ("megapixels", "wall s", "MP/s", "processor s", "MP per processor s", "peak MB", "file MB")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for size in sizes:
        width, height = map(int, size.split("x"))
        pixels = width * height / 1e6
        with tempfile.TemporaryDirectory() as folder:
            wall, busy, peak = measure(size, Path(folder))
            written = (Path(folder) / "smear.tif").stat().st_size / 1e6
        rates = f"{wall:.0f} | {pixels / wall:.1f} | {busy:.0f} | {pixels / busy:.1f}"
        print(f"| {pixels:.0f} | {rates} | {peak:.0f} | {written:.0f} |", flush=True)


if __name__ == "__main__":
    main()
