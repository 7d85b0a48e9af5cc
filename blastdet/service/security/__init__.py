"""Who asks, and what every request and answer must satisfy.

It imports `core`, and of the service the store, the settings and the log.
"""
