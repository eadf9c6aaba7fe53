"""Effects over networks, average ranks and their stability, as tables and in words."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.analysis.effects import Effect
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.standing import FEWEST_NETWORKS, Stability, Standing
from benchmarks.records.cell import REFERENCE
from benchmarks.tables.markdown import markdown_table

__all__ = ["ranked_lines", "standing_table", "standing_words", "tests_of_ranks"]

GAINS = (
    f"Gain over {REFERENCE} in points, paired by network, budget and seed: a seed's budgets are "
    "averaged first, then the seeds of a network, then networks. A seed that lacks one of the "
    "method's budgets does not count."
)
OVER_NETWORKS = (
    "The 95 % interval draws networks, then seeds in each; of few networks it is hardly more than "
    "their range, too narrow."
)
ONE_NETWORK = "One network says nothing of others, so there is no interval."


def standing_table(
    effects: Sequence[Effect], standing: Standing | None, pairs: Sequence[Stability]
) -> str:
    """Markdown: gains over all networks beside average ranks, then tau between budgets."""
    parts = []
    if _is_over_tasks(effects) or standing is not None:
        words = " ".join([*_words_of_gains(effects), *_words_of_ranks(standing)])
        parts.append(f"### Over all networks and budgets\n\n{words}\n\n{_gains(effects, standing)}")
    if pairs:
        parts.append(
            "### Stability of the ranking between budgets\n\n"
            "Kendall's tau-b between the methods' final accuracies at two budgets, 95 % interval "
            "from resampled methods and seeds. Left out are methods of which a seed has no result "
            f"at one.\n\n{_stabilities(pairs)}"
        )
    return "\n".join(parts)


def ranked_lines(findings: Findings) -> list[str]:
    """A sentence for each method on its rank and on its gain over uniform width, the best first."""
    effects, standing = findings.effects, findings.standing
    gains = {each.method: each for each in effects} if _is_over_tasks(effects) else {}
    ranks = dict(zip(standing.methods, standing.average, strict=True)) if standing else {}
    lines = [
        f"{method} ranks {rank:.2f} on average{_and_gains(gains.pop(method, None))}."
        for method, rank in ranks.items()
    ]
    return [
        *lines,
        *(f"{name} has no rank, {_gains_told(each)}." for name, each in gains.items()),
    ]


def standing_words(findings: Findings) -> list[str]:
    """What these numbers are, and how alike the ranking is at two budgets."""
    effects, standing = findings.effects, findings.standing
    return [
        *(_words_of_gains(effects) if _is_over_tasks(effects) else []),
        *_words_of_ranks(standing),
        *(
            f"{pair.title}: the rankings at budgets {pair.budgets[0]} and {pair.budgets[1]} agree "
            f"with Kendall's tau {pair.tau:.2f}, 95 % interval {pair.low:.2f} to {pair.high:.2f}."
            for pair in findings.stability
        ),
    ]


def tests_of_ranks(standing: Standing) -> str:
    """Critical difference and Friedman's test, or why there are none."""
    networks = _count(standing.networks, "network")
    if not standing.is_testable:
        return f"{networks}; a critical difference needs {FEWEST_NETWORKS}"
    p_value = standing.p_value
    test = "" if p_value is None else f"; Friedman p = {p_value:.2g}"
    return (
        f"critical difference {standing.critical_difference:.2f} (Nemenyi, 5 %) over "
        f"{networks}{test}"
    )


def _is_over_tasks(effects: Sequence[Effect]) -> bool:
    """Whether any effect is over more than one task, which its comparison tells already."""
    return any(effect.tasks + effect.left_out > 1 for effect in effects)


def _words_of_gains(effects: Sequence[Effect]) -> list[str]:
    if not effects:
        return []
    words = [GAINS, OVER_NETWORKS if any(each.interval for each in effects) else ONE_NETWORK]
    if lost := [f"{each.method} {each.left_out}" for each in effects if each.left_out]:
        words.append(
            "Tasks left out, since no seed has all budgets or a seed has no result there: "
            f"{', '.join(lost)}; these means are over other tasks than the rest."
        )
    return words


def _words_of_ranks(standing: Standing | None) -> list[str]:
    if standing is None:
        return []
    words = [
        f"Ranks are averaged over the budgets of a network, then over networks: "
        f"{tests_of_ranks(standing)}."
    ]
    if standing.fewest_seeds:
        words.append(
            "Not all methods have the same seeds; ranks are over those that all have, "
            f"{_count(standing.fewest_seeds, 'seed')} at the least."
        )
    if standing.left_out:
        words.append(
            f"Without ranks: {_count(standing.left_out, 'task')} that not all of these methods "
            "were run on."
        )
    if standing.without_seed:
        words.append(
            f"Without ranks: {_count(standing.without_seed, 'task')} in which these methods have "
            "no seed in common."
        )
    if standing.unranked:
        named = [f"{name} in {_count(n, 'task')}" for name, n in standing.unranked.items()]
        words.append(f"Not ranked, since a seed has no result: {', '.join(named)}.")
    return words


def _gains(effects: Sequence[Effect], standing: Standing | None) -> str:
    ranks = dict(zip(standing.methods, standing.average, strict=True)) if standing else {}
    rows = [
        (each.method, _points(each.mean), _interval(each), f"{each.networks}", f"{each.tasks}",
         f"{each.left_out}", _rank(ranks.pop(each.method, None)))
        for each in effects
    ]  # fmt: skip
    rows += [(name, "–", "–", "–", "–", "–", _rank(rank)) for name, rank in ranks.items()]
    head = ("Method", f"To {REFERENCE}", "95 % interval", "Networks", "Tasks", "Left out",
            "Average rank")  # fmt: skip
    return markdown_table(head, "lrrrrrr", rows)


def _stabilities(pairs: Sequence[Stability]) -> str:
    rows = [
        (pair.title, " and ".join(pair.budgets), f"{pair.methods}", f"{pair.left_out}",
         "one seed" if pair.seeds == 1 else f"{pair.seeds} seeds", f"{pair.tau:.2f}",
         f"{pair.low:.2f} to {pair.high:.2f}")
        for pair in pairs
    ]  # fmt: skip
    head = ("Network and data", "Budgets", "Methods", "Left out", "Seeds", "Tau", "95 % interval")
    return markdown_table(head, "llrrlrr", rows)


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _interval(effect: Effect) -> str:
    return " to ".join(map(_points, effect.interval)) if effect.interval else "–"


def _bracket(effect: Effect) -> str:
    return f" [{', '.join(map(_points, effect.interval))}]" if effect.interval else ""


def _and_gains(effect: Effect | None) -> str:
    return f", {_gains_told(effect)}" if effect else ""


def _gains_told(effect: Effect) -> str:
    return f"{_points(effect.mean)}{_bracket(effect)} points to {REFERENCE}"


def _rank(rank: float | None) -> str:
    return "–" if rank is None else f"{rank:.2f}"


def _count(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"{number} {what}s"
