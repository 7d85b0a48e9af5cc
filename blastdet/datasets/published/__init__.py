"""Readers of published datasets whose layout or file names are their own, one module for each dataset.

Imports `segmentation` and below, `datasets.formats` and `datasets.cropping.cell_types`.
"""
