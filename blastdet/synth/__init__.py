"""Synthetic smears with exact ground truth: scenes, stains and rendering. Imports `core` and `imaging`."""
