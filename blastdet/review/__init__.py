"""See every error, correct it, feed it back: the static page and FiftyOne. Imports `evaluation` and below."""
