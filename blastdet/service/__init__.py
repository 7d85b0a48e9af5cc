"""The service behind ``blastdet serve``: smears in, results out, over HTTP, for one laboratory on one machine.

It imports `inference`, `datasets`, `viewer`, `review` and below. ``supervisor`` starts one web process (``api``) and
worker processes (``jobs``); both compute in child processes with limits (``compute``) and keep everything in ``store``.
"""
