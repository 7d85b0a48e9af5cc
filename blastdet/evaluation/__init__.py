"""Evaluation of detections: average precision and per-cell confusion, with an interval on every number.

Imports `inference` and below.
"""
