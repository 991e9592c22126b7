"""Captures that were made: files of JSON lines, read back for reports, exports and queries.

``lines`` reads records, and counts what is none; ``exchanges`` puts request and response,
and what both ends said of them, together again; ``address`` says what was asked of whom;
``output`` writes the result.
"""
