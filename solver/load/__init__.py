"""The live side: the only package with state and locks."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is logged is the application's choice
