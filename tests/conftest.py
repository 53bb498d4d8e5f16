"""Settings of all tests."""

from hypothesis import settings

# The wall time of one example says nothing on a busy machine.
settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")
