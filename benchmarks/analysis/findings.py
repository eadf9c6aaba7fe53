"""What a set of records says, worked out once for tables, figures and page.

Comparisons, effects, rankings and standing are found on first use and kept, so that a report, which
shows them in a dozen places, groups its records and draws its resamples once. Reads records and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.analysis.comparison import Comparison, compare
from benchmarks.analysis.effects import Effect, overall_effects
from benchmarks.analysis.ranking import Ranking, collect_rankings
from benchmarks.analysis.standing import Stability, Standing, average_ranks, stability
from benchmarks.records.files import Unread, current_records
from benchmarks.records.record import Record

__all__ = ["Findings"]


@dataclass(frozen=True, eq=False)
class Findings:
    """Records, and all that is read off them.

    Attributes:
        records: as they were read, superseded ones among them.
        unread: files beside the records that are none.
    """

    records: tuple[Record, ...]
    unread: tuple[Unread, ...] = ()

    @classmethod
    def of(cls, records: Iterable[Record], unread: Sequence[Unread] = ()) -> Findings:
        """Findings from records in any collection."""
        return cls(tuple(records), tuple(unread))

    @cached_property
    def comparisons(self) -> Sequence[Comparison]:
        """Methods side by side."""
        return compare(self.records)

    @cached_property
    def rankings(self) -> Sequence[Ranking]:
        """Samples trained alone, and how methods score them."""
        return collect_rankings(self.records)

    @cached_property
    def effects(self) -> Sequence[Effect]:
        """What each method gains over uniform width, over all comparisons."""
        return overall_effects(self.comparisons)

    @cached_property
    def standing(self) -> Standing | None:
        """Average ranks over all comparisons; None if there are no two tasks alike."""
        return average_ranks(self.comparisons)

    @cached_property
    def stability(self) -> Sequence[Stability]:
        """How alike the ranking is at two budgets, for each pair of them."""
        return stability(self.comparisons)

    @cached_property
    def by_device(self) -> Mapping[str, Findings]:
        """The same for the current records of each device alone, by its name and fingerprint.

        Records without times have one device for each processor, named by the first of them; see
        `benchmarks.analysis.comparison.compare`.
        """
        devices: dict[str, list[Record]] = {}
        untimed: dict[str, str] = {}
        for record in current_records(self.records):  # no device brings a replaced one back
            name = record.runs_on
            if not record.timed_by and record.cell.sample is None:
                name = untimed.setdefault(record.processor, name)
            devices.setdefault(f"{record.processor} {name}", []).append(record)
        if len(devices) == 1:
            return dict.fromkeys(devices, self)
        return {device: Findings.of(records) for device, records in devices.items()}
