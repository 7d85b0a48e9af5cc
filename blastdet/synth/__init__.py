"""Synthetic smears with exact truth: scenes, stains, rendering. Imports `core` and `imaging`."""
