"""Audit: faults and leaks of a dataset, found by rules.

`folder_audit` reads a folder and applies the rules; `overlapping_fields` finds images that share content. Imports
`evaluation` and below.
"""
