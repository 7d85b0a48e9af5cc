"""Foundations without any model: errors, `Detections` and datasets, box geometry, model cards, output files.

It imports no other package.
"""
