"""Readers of published datasets whose layout or file names are their own, one module for each dataset.

Imports `segmentation` and below, `datasets.annotations` and `datasets.formats`.
"""
