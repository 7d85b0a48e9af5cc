"""Crops of cells: cut out of images, their table, the types that their datasets give them, and negative controls.

Imports `segmentation` and below, and modules of `datasets` that are not in this package.
"""
