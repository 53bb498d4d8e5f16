"""Converts LiteLLM's deployments to models, capacities and prices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import litellm
from litellm.utils import calculate_max_parallel_requests

from solver.errors import SpecError, Violation
from solver.load.checks import money_problems, positive_problems, whole_problems
from solver.problem.spec import Capacity, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.load.tracker import LoadTracker

_DURATION = re.compile(r"([1-9][0-9]*)(s|m|h|d|w|mo)")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "mo": 30 * 86400.0}


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """What LiteLLM's model list does not say.

    Parameters
    ----------
    scores : mapping of str to float, or callable, optional
        Quality of each deployment, by its id, its ``litellm_params.model`` or its pool; or
        ``scores(deployment, request) -> float``. Default: ``model_info.solver_score``, else the capability
        score of ``model_info.solver_capabilities`` for the request's ``metadata.task_type`` over 100, else 1. A task
        type that is unknown counts as none. What gives no number, and a deployment that a table leaves out, is scored
        by that default, with one warning; ``-inf`` forbids a deployment.
    latency_weight : float
        Score one second of expected service costs.
    tail_weight : float
        Score one second that a request adds to the mean latency of the slowest twentieth costs: requests whose
        prompts tell of long answers go to fast deployments.
    cost_weight : float
        Score one US dollar costs.
    default_concurrent : int
        Slots of a deployment that states no ``max_parallel_requests``, ``rpm`` or ``tpm``; LiteLLM derives its own
        limit from the latter two, and this is that limit.
    queue : int
        Requests that may wait for a slot of each deployment, in the plug-in and not at the server; a second waited
        costs as much as one of service. 0: refuse at once when every slot is taken.
    queue_timeout_s : float
        Longest wait; then the request is refused.
    output_tokens : int
        Output of a request that states no ``max_tokens``, as limits and budgets count on it before the answer is
        there. Service times are predicted from the answers seen so far; this is where their mean starts.
    select_ttl_s : float
        Time to live of a lease between selection and the start of the call.
    ttl_s : float
        Time to live of a running call's lease; it is renewed while the call runs.

    Raises
    ------
    SpecError
        Naming each value that is out of range.
    """

    scores: Mapping[str, float] | Callable[[dict[str, Any], dict[str, Any]], float] | None = None
    latency_weight: float = 0.05
    tail_weight: float = 0.0
    cost_weight: float = 0.0
    default_concurrent: int = 1000
    queue: int = 0
    queue_timeout_s: float = 30.0
    output_tokens: int = 256
    select_ttl_s: float = 5.0
    ttl_s: float = 60.0

    def __post_init__(self) -> None:
        problems = positive_problems("select_ttl_s", self.select_ttl_s) + positive_problems(
            "ttl_s", self.ttl_s
        )
        problems += positive_problems("queue_timeout_s", self.queue_timeout_s)
        problems += whole_problems("queue", self.queue)
        problems += money_problems("latency_weight", self.latency_weight)
        problems += money_problems("tail_weight", self.tail_weight)
        problems += money_problems("cost_weight", self.cost_weight)
        problems += whole_problems("default_concurrent", self.default_concurrent, low=1)
        problems += whole_problems("output_tokens", self.output_tokens)
        if isinstance(self.scores, Mapping):
            problems += [
                Violation(f"scores.{name}", "expected a finite number or -inf", value)
                for name, value in self.scores.items()
                if not is_score(value)
            ]
        elif self.scores is not None and not callable(self.scores):
            problems.append(Violation("scores", "expected a mapping or a callable", self.scores))
        if problems:
            raise SpecError(*problems)


class Deployment(NamedTuple):
    """What routing needs to know of one deployment.

    Parameters
    ----------
    id : str
        LiteLLM's ``model_info.id``.
    pool : str
        What limits it: ``model_info.solver_pool`` where several deployments share one quota, else its id.
    upstream : str
        ``litellm_params.model``.
    limits : tuple
        (max_parallel_requests, rpm, tpm, max_budget, budget_duration), None where not stated.
    """

    id: str
    pool: str
    upstream: str
    limits: tuple[Any, ...]


def describe(deployment: Mapping[str, Any]) -> Deployment:
    """Read a deployment as LiteLLM hands it to strategies. O(1)."""
    params, info = deployment["litellm_params"], deployment["model_info"]
    return Deployment(
        id=info["id"],
        pool=info.get("solver_pool") or info["id"],
        upstream=params.get("model") or "",
        limits=(
            params.get("max_parallel_requests"),
            params.get("rpm"),
            params.get("tpm"),
            params.get("max_budget"),
            params.get("budget_duration"),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What a deployment says of its pool.

    Parameters
    ----------
    model : Model
        Capacity, prices, capabilities and context window, under the pool's name.
    budget_usd, budget_period_s : float or None
        Most dollars, and in how many seconds; None for no limit, or for no end.
    """

    model: Model
    budget_usd: float | None
    budget_period_s: float | None


def pool_of(given: Mapping[str, Any], options: FleetOptions) -> Pool:
    """Return the pool that a deployment describes.

    Raises
    ------
    SpecError
        If it cannot be read, by the id of the deployment.
    """
    read = describe(given)
    try:
        return _pool_of(read, given, options)
    except SpecError as error:
        raise SpecError(*(each.within(f"model_list[{read.id}]") for each in error.violations)) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise SpecError(Violation(f"model_list[{read.id}]", f"expected numbers: {error}")) from None


def _pool_of(read: Deployment, given: Mapping[str, Any], options: FleetOptions) -> Pool:
    info, known = given["model_info"], _known(read.upstream)
    parallel, rpm, tpm = (None if limit is None else int(limit) for limit in read.limits[:3])
    slots = calculate_max_parallel_requests(parallel, rpm, tpm, options.default_concurrent)
    model = Model(
        id=read.pool,
        capacity=Capacity(max_concurrent=slots or 0, max_queue=options.queue),
        capabilities=info.get("solver_capabilities") or {},
        context_tokens=info.get("max_input_tokens") or known.get("max_input_tokens"),
        usd_per_million_input_tokens=_per_million(given, known, "input_cost_per_token"),
        usd_per_million_output_tokens=_per_million(given, known, "output_cost_per_token"),
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
    )
    budget, duration = read.limits[3:]
    return Pool(
        model=model,
        budget_usd=None if budget is None else float(budget),
        budget_period_s=None if budget is None or duration is None else duration_s(str(duration)),
    )


def pools_of(deployments: Sequence[Mapping[str, Any]], options: FleetOptions) -> list[Pool]:
    """Return every pool once, in order of appearance; the first deployment of a pool describes it."""
    pools: dict[str, Pool] = {}
    for given in deployments:
        if describe(given).pool not in pools:
            pool = pool_of(given, options)
            pools[pool.model.id] = pool
    return list(pools.values())


def models_of(deployments: Sequence[Mapping[str, Any]], options: FleetOptions) -> list[Model]:
    """Return one model for each pool, in order of appearance."""
    return [pool.model for pool in pools_of(deployments, options)]


def set_capacity(tracker: LoadTracker, pool: Pool) -> None:
    """Tell the tracker what a pool can take, now or again."""
    model = pool.model
    tracker.set_capacity(
        model.id,
        model.capacity,
        requests_per_minute=model.requests_per_minute,
        tokens_per_minute=model.tokens_per_minute,
        budget_usd=pool.budget_usd,
        budget_period_s=pool.budget_period_s,
    )


def duration_s(text: str) -> float:
    """Return the seconds of a LiteLLM duration: 30s, 5m, 1h, 1d, 1w, or 1mo, which is thirty days.

    Raises
    ------
    SpecError
        If it is none.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise SpecError(Violation("budget_duration", "expected a number and one of s, m, h, d, w, mo", text))
    return int(found[1]) * _UNIT_S[found[2]]


def is_score(value: Any) -> bool:
    """Return whether a value can be a score: a number, finite or ``-inf``."""
    return isinstance(value, int | float) and value < math.inf  # NaN compares false


def _known(upstream: str) -> dict[str, Any]:
    """Return LiteLLM's own facts about a model, none for one it does not know."""
    try:
        return dict(litellm.get_model_info(upstream))
    except Exception:  # noqa: BLE001 - LiteLLM raises a plain Exception for a model it does not know
        return {}


def _per_million(given: Mapping[str, Any], known: Mapping[str, Any], name: str) -> float | None:
    for source in (given["litellm_params"], given["model_info"], known):
        if source.get(name) is not None:
            return 1e6 * float(source[name])
    return None
