"""Captures in the words of other tools: HAR, curl commands, CSV, Parquet, SQL.

``har`` and ``curl`` write an exchange each; ``rows`` says what the columns of a table are,
for ``csv`` and ``database`` (DuckDB, an extra).
"""
