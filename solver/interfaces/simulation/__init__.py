"""Commands that replay traffic and weigh evidence: ``solver simulate`` and ``solver evaluate``."""
