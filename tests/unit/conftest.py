"""Hypothesis without a deadline: machines that run tests may be slow and busy.

In CI the examples are the same every time: a change is not to fail for a case
that was there before it. Everywhere else they are new ones.
"""

import os

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")
