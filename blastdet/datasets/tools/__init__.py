"""Exports of annotation programs: CVAT, Label Studio, VIA, labelme and Supervisely, read and partly written.

Each is a module with ``read`` and ``read_records`` like those of `formats`, where `registry` lists them. `exported`
turns their records into a dataset. Imports `formats`, other modules of `datasets`, `imaging` and below.
"""
