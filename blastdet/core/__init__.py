"""Foundations without any model: errors, `Detections` and datasets, box geometry, model cards, output files.

Imports no other package.
"""
