"""The profile for a long search: python -m pytest tests/examples/fuzz --hypothesis-profile=hour"""

import hypothesis

# Each test makes a share of `max_examples`, as `mutations.search` says. Only the default is the same
# in every run, so that CI does not fail by chance.
hypothesis.settings.register_profile("hour", max_examples=10_000, derandomize=False)
