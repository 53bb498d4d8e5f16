"""Usage in a sliding window, exact to one step, in memory that does not grow with traffic."""

from __future__ import annotations

import math
from array import array
from collections import deque


class SlidingWindow:
    """Amounts used by many models over the last ``window_s`` seconds.

    Usage is kept per step of ``window_s / parts``; a step leaves only when all of it is older than the
    window. So an interval of ``window_s`` never holds more than was admitted as fitting one window: there
    is no boundary at which two windows' worth can pass, and an amount stays at most one step too long.
    O(1) amortised; at most ``parts + 2`` entries a model.

    Parameters
    ----------
    window_s : float
        Length in seconds; ``inf`` for usage that never leaves.
    parts : int
        Steps the window is cut into.
    """

    def __init__(self, window_s: float, parts: int) -> None:
        self._window_s = window_s
        self._step_s = window_s / parts
        self._endless = math.isinf(window_s)
        self._steps: deque[tuple[int, dict[int, int]]] = deque()
        self.used = array("q")
        self.leaves_s = math.inf
        """When the oldest step leaves the window: until then there is nothing to forget."""

    def grow(self) -> None:
        """Make room for one more model."""
        self.used.append(0)

    def remove(self, model: int) -> None:
        """Forget one model; the numbers of the models after it go down by one. O(entries)."""
        self.take(model)
        del self.used[model]
        for k, (step, amounts) in enumerate(self._steps):
            self._steps[k] = (step, {j - (j > model): amount for j, amount in amounts.items()})

    def advance(self, now_s: float) -> None:
        """Forget what has left the window. ``now_s`` must not go backwards."""
        steps = self._steps
        while self.leaves_s <= now_s:
            for model, amount in steps.popleft()[1].items():
                self.used[model] -= amount
            self._note_oldest()

    def _note_oldest(self) -> None:
        steps = self._steps
        self.leaves_s = (steps[0][0] + 1) * self._step_s + self._window_s if steps else math.inf

    def charge(self, model: int, amount: int, now_s: float) -> int:
        """Count an amount as used now; return the step to refund it to."""
        self.used[model] += amount
        if self._endless:
            return 0
        step = math.floor(now_s / self._step_s)  # as the script of the shared store does it
        steps = self._steps
        if steps and steps[-1][0] == step:
            amounts = steps[-1][1]
            amounts[model] = amounts.get(model, 0) + amount
            return step
        steps.append((step, {model: amount}))
        if len(steps) == 1:
            self._note_oldest()
        return step

    def refund(self, model: int, amount: int, step: int) -> int:
        """Take back an amount charged in ``step``; return how much of it had not left the window."""
        if self._endless:
            taken = min(amount, self.used[model])
            self.used[model] -= taken
            return taken
        for number, amounts in reversed(self._steps):  # recent steps first: at most parts + 2 of them
            if number == step:
                taken = min(amount, amounts.get(model, 0))
                amounts[model] = amounts.get(model, 0) - taken
                self.used[model] -= taken
                return taken
            if number < step:
                break
        return 0

    def put_back(self, model: int, amount: int, step: int) -> None:
        """Undo a refund of the same instant; nothing happens when the step has left the window."""
        if self._endless:
            self.used[model] += amount
            return
        for number, amounts in reversed(self._steps):
            if number == step:
                amounts[model] = amounts.get(model, 0) + amount
                self.used[model] += amount
                return

    def take(self, model: int) -> int:
        """Forget all that one model has used, and return how much that was. O(parts)."""
        for _, amounts in self._steps:
            amounts.pop(model, None)
        used, self.used[model] = self.used[model], 0
        return used

    def wait_s(self, model: int, amount: int, limit: int, now_s: float) -> float | None:
        """Return seconds until ``amount`` more fits under ``limit``, None when it never will."""
        over = self.used[model] + amount - limit
        if over <= 0:
            return 0.0
        for step, amounts in self._steps:
            over -= amounts.get(model, 0)
            if over <= 0:
                return (step + 1) * self._step_s + self._window_s - now_s
        return None
