"""Speed and memory: python pipelines/benchmark.py vae|cache|latte [CONFIG.yaml ...] [key=value ...]

The first word says what is measured. Without a configuration file: full size, configs/kinetics400_256.yaml.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pipelines.run.stage import main
from pipelines.studies.benchmarks import cache_speed, latte_speed, vae_speed
from pipelines.studies.benchmarks.options import Benchmark

STAGE = "benchmark"
DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "kinetics400_256.yaml"
# Kind -> what measures it, what it says in a dry run, and the sections that it reads.
KINDS: dict[str, tuple[Callable[[Benchmark], None], Callable[[Benchmark], str], tuple[str, ...]]] = {
    vae_speed.KIND: (vae_speed.run, vae_speed.describe, ("benchmark", "vae", "run")),
    cache_speed.KIND: (cache_speed.run, cache_speed.describe, ("benchmark", "vae", "cache", "latte", "run")),
    latte_speed.KIND: (latte_speed.run, latte_speed.describe, ("benchmark", "run")),
}


def benchmark(arguments: Sequence[str]) -> NoReturn:
    """Run one kind of benchmark and exit as a stage does; results stand in runs/benchmark unless run.name= is given."""
    kind, given = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if kind not in KINDS:
        usage = f"python pipelines/{STAGE}.py {'|'.join(KINDS)} [CONFIG.yaml [overlay.yaml ...]] [key=value ...]"
        print(usage, file=sys.stdout if kind in ("--help", "-h") else sys.stderr)
        sys.exit(0 if kind in ("--help", "-h") else 2)
    if not any(argument.startswith("run.name=") for argument in given):
        given.append(f"run.name={STAGE}")
    run, describe, sections = KINDS[kind]
    main(kind, run, Benchmark, sections, describe, given, f"pipelines/{STAGE}.py {kind}", DEFAULT_CONFIG)


if __name__ == "__main__":
    benchmark(sys.argv[1:])
