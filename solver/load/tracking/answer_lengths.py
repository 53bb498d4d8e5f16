"""Reservations for answers whose length is not known in advance."""

from __future__ import annotations

from solver.errors import SpecError
from solver.load.checks import whole_problems
from solver.load.lease import Demand
from solver.load.tracking.state import TrackerState
from solver.problem.request_cost import request_cost_usd


class AnswerLengths(TrackerState):
    """Demands whose output tokens are learned from settled leases."""

    def output_reserve(self, model: str | None, task_type: str | None = None) -> int | None:
        """Return the output tokens to reserve, as learned from settled leases; None while nothing is known.

        Without a model: what to expect of any.
        """
        return self._lengths.reserve(model, task_type)

    def demand_for(
        self,
        model: str,
        *,
        input_tokens: int = 0,
        max_tokens: int | None = None,
        task_type: str | None = None,
        usd_per_output_token: float = 0.0,
        usd_per_input_token: float = 0.0,
    ) -> Demand:
        """Return what to reserve for a request whose answer cannot be measured in advance.

        Of the output tokens, a quantile of the latest answers to such tasks is reserved, at most ``max_tokens``,
        and settled by ``release(tokens=…)`` at the end. While nothing is known, one request reserves all
        that is left of the model's limits, or its ``max_tokens``: no more than one can be spent too much.

        Parameters
        ----------
        model : str
            Its id.
        input_tokens : int
            Of the prompt.
        max_tokens : int, optional
            Most the answer may have.
        task_type : str, optional
            What the work is; lengths are learned for each kind.
        usd_per_output_token, usd_per_input_token : float
            Prices, for limits on money.

        Raises
        ------
        SpecError
            If a value is out of range, or the model is unknown.
        """
        problems = [] if max_tokens is None else whole_problems("max_tokens", max_tokens, low=1)
        if problems := problems + whole_problems("input_tokens", input_tokens):
            raise SpecError(*problems)
        output = self.output_reserve(model, task_type)
        guessed = 0
        if output is None:
            row = self._store.row(model)
            left = [meter.limit - meter.used for meter in row.meters if meter.resource == "tokens"]
            guessed = output = max(1, int(min(left)) - input_tokens) if left else 0
        if max_tokens is not None:
            output = min(output, max_tokens)
        return Demand(
            tokens=input_tokens + output,
            input_tokens=input_tokens,
            cost_usd=request_cost_usd(input_tokens, output, usd_per_input_token, usd_per_output_token),
            task_type=task_type,
            guessed_tokens=min(guessed, output),
        )
