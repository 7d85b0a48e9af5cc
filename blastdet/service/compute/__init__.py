"""Child processes that decode images and run models, under limits of memory and time.

They import what `inference` and `viewer` offer, and of the service the settings, the store and the log. A
damaged or hostile image ends a child, never the process that asked.
"""
