"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("without-deadline", deadline=None)  # wall time of one example says nothing on a busy machine
settings.load_profile("without-deadline")
