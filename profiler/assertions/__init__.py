"""Assertions on exchanges: what must not be, and what must.

``fields`` says what can be asked of an exchange; ``language`` reads a condition;
``judge`` holds exchanges against them and says which violate them or are missing; ``junit``
writes that for CI. Nothing here knows where the exchanges came from.
"""
