"""Work on smears: rows that say what is to be done, a queue that wakes workers, and what looks after both.

It imports `core`, and of the service the store and the computing processes.
"""
