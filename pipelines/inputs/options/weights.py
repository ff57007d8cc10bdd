"""Options of weights: the section `weights`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightsSection:
    """Pretrained networks that scores and losses use."""

    folder: str = "weights"  # where the files lie, and where pipelines/weights.py puts them
    mirror: str = ""  # address below which a copy of the public links' files lies, by their names; empty = the links

    def __post_init__(self) -> None:
        if self.mirror and not self.mirror.startswith(("http://", "https://")):
            raise ValueError(f"weights.mirror is {self.mirror!r}, but must begin with http:// or https://")
