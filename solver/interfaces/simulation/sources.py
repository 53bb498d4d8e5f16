"""Where the traffic of a simulation comes from: a file of requests or of client rates, or a generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from solver.errors import SpecError
from solver.interfaces.files.columns import ColumnKinds
from solver.interfaces.files.library_errors import errors_about, located_errors
from solver.interfaces.files.tables import is_table, read_table
from solver.interfaces.simulation.client_rates import client_traffic, is_client_table
from solver.interfaces.simulation.decision_trace import is_decision_log
from solver.interfaces.simulation.traces import TraceColumns, read_trace, trace_of
from solver.problem.values import unknown_name
from solver.simulate.traffic_generators import GENERATORS, generate_traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.interfaces.files.sources import Reading
    from solver.simulate.traffic import Traffic

_GENERATED = 10_000  # requests of a generator where none are asked for


@dataclass(frozen=True, kw_only=True)
class TrafficOptions:
    """What the command line says about traffic.

    Parameters
    ----------
    requests : int, optional
        Of a generator, or the first of a file.
    cv, rate : float
        Of a generator: variation of the gaps, and arrivals a second.
    thin : float
        Keep each request with this probability.
    deadline_s : float, optional
        Seconds within which answers are wanted.
    client_model : str, optional
        Whose clients, in a table of client rates.
    """

    requests: int | None = None
    cv: float = 2.0
    rate: float = 1.0
    thin: float = 1.0
    deadline_s: float | None = None
    client_model: str | None = None


_TRAFFIC_ARRAYS = ("arrival_s", "input_tokens", "output_tokens", "task_type", "deadline_s", "scores")
"""What traffic is made of, in paths of errors about a trace."""


def traffic_source(
    trace: str, columns: TraceColumns, options: TrafficOptions, reading: Reading
) -> Callable[[int], Traffic]:
    """Return what gives the traffic of a seed: the same for every seed where it is a trace.

    Raises
    ------
    SpecError
        When there is no such file or generator, or a value is out of range.
    """
    raw = _raw(trace, columns, options, reading)

    def traffic_of(seed: int) -> Traffic:
        traffic = raw(seed)
        if options.thin != 1.0:
            traffic = traffic.thinned(options.thin, seed=seed)
        if options.deadline_s is not None:
            traffic = traffic.with_deadline(options.deadline_s)
        return traffic

    return traffic_of


def _raw(
    trace: str, columns: TraceColumns, options: TrafficOptions, reading: Reading
) -> Callable[[int], Traffic]:
    if trace in GENERATORS:
        count = _GENERATED if options.requests is None else options.requests
        generate_traffic(
            trace, 1, rate_per_s=options.rate, cv=options.cv
        )  # bad values are found before the work
        return lambda seed: generate_traffic(trace, count, rate_per_s=options.rate, cv=options.cv, seed=seed)
    path = Path(trace)
    if not path.exists() and not path.suffix:
        rule = f"expected a file, or one of {', '.join(GENERATORS)}"
        raise SpecError(unknown_name("trace", rule, trace, GENERATORS))
    with located_errors(path), errors_about(path, _TRAFFIC_ARRAYS):
        if is_table(path) and path.is_file() and not is_decision_log(path):
            table = read_table(path, ColumnKinds(number=lambda _: False), reading=reading)
            if is_client_table(table):
                most = options.requests
                return client_traffic(path, table, reading, model=options.client_model, requests=most)
            read = trace_of(path, table, columns, reading)
        else:
            read = read_trace(path, columns, reading=reading)
    if options.requests is not None:
        read = read.first(options.requests)
    return lambda _: read
