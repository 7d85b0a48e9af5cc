"""Annotated datasets: reading, converting, splitting, correcting, downloading, cutting crops.

Imports `segmentation` and below.
"""
