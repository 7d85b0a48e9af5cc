"""How much accuracy a model loses on corrupted images. Imports `inference` and below."""
