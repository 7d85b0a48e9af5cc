"""Classical image analysis: nuclei, red cells, the scale of an image, boxes from points.

Imports `imaging` and below.
"""
