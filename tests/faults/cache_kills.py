"""Processes that write a latent cache are killed again and again, for the fault suite and the tests of the cache.

In each trial, three times, one to five independent jobs are ended by SIGKILL at a random moment, and another number of
them goes on. The finished cache is compared, byte by byte, with that of a single process that nobody disturbed.
"""

import hashlib
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from pipelines import cache_latents, prepare_data
from pipelines.inputs.experiment import Experiment
from pipelines.run.config import load_config
from pipelines.run.ranks import disconnect
from vae.registry import build_autoencoder

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "tests" / "nano.yaml"
SHARDS_OF = "cache.clips_per_shard=2"  # 40 clips in 20 shards
NUM_KILLS = 3
LONGEST_WAIT_SECONDS = 200


def prepare(folder: Path) -> list[str]:
    """Clips and an autoencoder with random weights; returns the arguments of a run that caches them."""
    arguments = [str(NANO), f"run.root={folder}", f"cache.vae={folder / 'vae'}", SHARDS_OF]
    config = load(arguments)
    prepare_data.run(config)
    torch.manual_seed(0)
    build_autoencoder(config.vae).save_pretrained(folder / "vae")
    return arguments


def load(arguments: Sequence[str]) -> Experiment:
    return load_config(Experiment, list(arguments), NANO)


def latents(arguments: Sequence[str]) -> Path:
    config = load(arguments)
    return Path(config.run.root) / config.run.name / "cache_latents" / "latents"


def digests(folder: Path) -> dict[str, str]:
    """Of every file of a cache."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def start(arguments: Sequence[str], count: int, ranks: int = 0) -> list[ForkServerProcess]:
    """`count` independent jobs; or `ranks` processes of one job, as torchrun starts them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.cache_latents"])
    port = str(random.randrange(20000, 30000))
    processes = [
        context.Process(
            target=work, args=([*arguments, f"cache.num_jobs={count}", f"cache.job={job}"], rank, ranks, port)
        )
        for job in range(count)
        for rank in range(max(ranks, 1))
    ]
    for process in processes:
        process.start()
    return processes


def work(arguments: Sequence[str], rank: int, world: int, port: str) -> None:
    """What one process does."""
    if world:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in ranks.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    try:
        cache_latents.run(load(arguments))
    finally:
        disconnect()


def kill_at(processes: Sequence[ForkServerProcess], folder: Path, num_shards: int, delay: float) -> int:
    """End all processes `delay` seconds after there are so many shards; returns how many there are then."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while len(list(folder.glob("shard-*.json"))) < num_shards:
        assert time.monotonic() < deadline and any(process.is_alive() for process in processes), "nothing is written"
        time.sleep(0.002)
    time.sleep(delay)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    return len(list(folder.glob("shard-*.json")))


def trial(arguments: Sequence[str], num_jobs: Sequence[int], delays: Sequence[float]) -> dict[str, Any]:
    """Write the cache with num_jobs[0] jobs, kill them, go on with num_jobs[1] jobs, ...; the last ones end well.

    What the result says of a kill: how many processes it ended and how many shards there were.
    """
    folder, total = latents(arguments), 20
    kills = []
    for number, (count, delay) in enumerate(zip(num_jobs, delays, strict=False)):
        processes = start(arguments, count)
        shards = kill_at(processes, folder, 1 + number * total // (len(delays) + 1), delay)
        ended = sum(process.exitcode == -9 for process in processes)
        kills.append({"jobs": count, "killed": ended, "shards": shards})
    processes = start(arguments, num_jobs[-1])
    for process in processes:
        process.join(LONGEST_WAIT_SECONDS)
    return {"kills": kills, "last_jobs": num_jobs[-1], "exit_codes": [process.exitcode for process in processes]}
