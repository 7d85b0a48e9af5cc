"""Pixels in and out: reading image files, resampling, tiles, colour, cutting cells out, drawing. Imports `core`."""
