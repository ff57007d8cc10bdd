"""Options of export: the section `export`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportSection:
    """Writing a pipeline of diffusers."""

    folder: str = ""  # where its two layouts, package and self_contained, are written; empty = this run's export folder
