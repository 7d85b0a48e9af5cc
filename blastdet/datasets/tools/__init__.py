"""Exports of annotation programs: CVAT, Label Studio, VIA, labelme and Supervisely, read and partly written.

Each is a module with ``read`` and ``read_records`` like those of `formats`, where `registry` lists them. Imports
`annotations`, `formats`, `imaging` and below.
"""
