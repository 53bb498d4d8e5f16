"""Answers to requests with a key, kept on the server of a shared store: any replica can give them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from solver.load.store.redis_link import FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.store.redis_link import RedisLink

CLAIM_S = 3.0
"""Seconds for which a claim holds unless it is renewed: as long as repetitions are put off after a replica has died."""

_CLAIM = """
local found = redis.call('GET', KEYS[1])
if not found then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return found
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end"
_GIVE_UP = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
_FINISH = """
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then return end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('RPUSH', KEYS[2], #ARGV[2] .. ' ' .. KEYS[1])
local bytes = redis.call('INCRBY', KEYS[3], #ARGV[2])
while bytes > tonumber(ARGV[5]) or redis.call('LLEN', KEYS[2]) > tonumber(ARGV[4]) do
  local size, oldest = string.match(redis.call('LPOP', KEYS[2]), '^(%d+) (.*)$')
  redis.call('DEL', oldest)
  bytes = redis.call('DECRBY', KEYS[3], size)
end
"""
_RUNNING, _DONE = b"r", b"d"


class Claim(NamedTuple):
    """One request with a key, which one replica carries out.

    Parameters
    ----------
    key : str
        Distinguishes it from others; not longer than needed, since it is kept.
    digest : str
        Of what was asked, 64 characters.
    token : str
        Of the attempt: no other has it.
    """

    key: str
    digest: str
    token: str

    @property
    def text(self) -> bytes:
        """As it stands under the key while the request is carried out."""
        return _RUNNING + f"{self.digest}{self.token}".encode()


class Found(NamedTuple):
    """What another attempt has left.

    Parameters
    ----------
    digest : str
        Of what it was asked.
    answer : bytes or None
        None: it is still carried out.
    """

    digest: str
    answer: bytes | None


class SharedAnswers:
    """Answers by key. While the server does not answer nothing is kept, and nothing found. Thread-safe.

    Parameters
    ----------
    link : RedisLink
        The connection of the store.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._claim, self._renew, self._give_up, self._finish = link.scripts(
            _CLAIM, _RENEW, _GIVE_UP, _FINISH
        )

    def claim(self, claim: Claim) -> Found | None:
        """Claim a request, or return what another attempt has left of it."""
        found = self._run(self._claim, claim, claim.text, round(1000 * CLAIM_S))
        if not found:
            return None
        text = found if isinstance(found, bytes) else str(found).encode()
        return Found(text[1:65].decode(), text[65:] if text[:1] == _DONE else None)

    def renew(self, claim: Claim) -> None:
        """Say that the request is still carried out."""
        self._run(self._renew, claim, claim.text, round(1000 * CLAIM_S))

    def give_up(self, claim: Claim) -> None:
        """Let the next attempt be a new one."""
        self._run(self._give_up, claim, claim.text)

    def finish(self, claim: Claim, answer: bytes, *, keep_s: float, most: int, most_bytes: int) -> None:
        """Keep the answer.

        Parameters
        ----------
        claim : Claim
            The request; where another attempt has claimed it meanwhile, that one's answer is kept.
        answer : bytes
            In any form.
        keep_s : float
            Seconds for which it is kept.
        most, most_bytes : int
            Answers, and their bytes, kept by all replicas together; the oldest are dropped.
        """
        kept = _DONE + claim.digest.encode() + answer
        self._run(self._finish, claim, claim.text, kept, round(1000 * keep_s), most, most_bytes)

    def _run(self, script: Callable[..., Any], claim: Claim, *arguments: Any) -> Any:
        if not self._link.up:
            return None
        prefix = f"{self._link.prefix}answer"
        try:
            return script(keys=[f"{prefix}:{claim.key}", f"{prefix}s", f"{prefix}_bytes"], args=arguments)
        except FAILURES:
            return None  # an outage is noted, and reported, with the next operation of the store
