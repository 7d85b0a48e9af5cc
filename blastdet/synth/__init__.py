"""Synthetic smears with exact truth. Imports `core`."""
