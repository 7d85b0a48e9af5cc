"""From an image to its result: scale, tiles, both stages, counts, output files.

Imports `models`, `datasets` and below.
"""
