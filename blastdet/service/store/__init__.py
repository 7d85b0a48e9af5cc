"""What the service keeps: rows in a database, files under names of its own.

It imports `core`, `datasets`, `imaging`, and of the service only the settings.
"""
