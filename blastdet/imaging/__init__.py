"""Image files, resampling, tiles, optical density and stain, crops of cells, overlays. Imports `core` only."""
