"""The pages of the service: templates around the interface, and the files that they load.

It imports `core` and `viewer`, and of the service the interface, whose routes it calls as functions.
"""
