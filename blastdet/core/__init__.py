"""Foundations without any model: errors, `Detections` and data sets, box geometry, model cards, output files.

Imports no other package.
"""
