"""Annotation formats of common tools: read, written and detected by name through `registry`.

Each format is a module with ``read``, ``write`` or both, built on the records of `records`. Imports `segmentation` and
below, and modules of `datasets` that are not formats.
"""
