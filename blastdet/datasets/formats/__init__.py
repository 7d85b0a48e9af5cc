"""Annotation formats of other tools, each a module with ``read`` and/or ``write``. Imports `segmentation` and below."""
