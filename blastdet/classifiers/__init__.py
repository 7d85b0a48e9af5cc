"""The second stage: what kind of white cell is this?"""
