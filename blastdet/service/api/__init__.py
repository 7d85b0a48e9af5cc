"""The HTTP interface under ``/api/v1``.

It imports `core`, `datasets`, `inference`, and of the service everything but the supervisor.
"""
