"""Annotation formats of common tools: read, written and detected by name through `registry`.

Each format is a module with ``read``, ``write`` or both, built on the records of `annotations`. `registry` names the
readers of `tools` and `published` as text, and imports none of them. Imports `segmentation` and below.
"""
