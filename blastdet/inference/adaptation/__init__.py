"""Fitting the second stage to the reviewed cells of one laboratory: reading them, fitting, choosing, writing weights.

Imports core, imaging, segmentation, models, datasets and the rest of inference; no torch.
"""
