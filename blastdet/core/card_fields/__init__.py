"""Parts of a model card that do something: calibration and adaptation of the blast probability.

Imports numpy and pydantic, and nothing of blastdet.
"""
