"""Hypothesis without a deadline: machines that run tests may be slow and busy."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
