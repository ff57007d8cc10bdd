"""Options of report: the section `report`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportSection:
    """One page about many runs."""

    runs: tuple[str, ...] = ()  # names of runs, their folders, or folders of runs, for a leaderboard; empty = this run
    compare: str = ""  # a score, such as fvd16, that ranks these runs; refused where its protocols or data differ

    def __post_init__(self) -> None:
        if self.compare and not self.runs:
            raise ValueError(f"report.compare is {self.compare!r}, but there are no runs: name some in report.runs")
