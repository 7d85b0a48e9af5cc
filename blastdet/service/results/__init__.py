"""Finished results, and everything that is made of them: tables, reports, pictures, what a page shows.

It imports `inference`, and of the service the store and the models.
"""
