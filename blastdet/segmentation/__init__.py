"""Classical image analysis: nuclei, red cells, estimation of the scale, boxes from points.

Imports `imaging` and below.
"""
