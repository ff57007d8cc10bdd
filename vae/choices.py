"""Options that are one word out of a few: any other is refused where the configuration is made."""

from __future__ import annotations

from typing import Any


def check_choices(config: Any, section: str, **choices: tuple[str, ...]) -> None:
    """ValueError unless every named option of a dataclass is one of its choices; section: where it stands in a YAML."""
    for name, allowed in choices.items():
        if (value := getattr(config, name)) not in allowed:
            raise ValueError(f"{section}.{name} is {value!r}, expected one of {', '.join(allowed)}")
