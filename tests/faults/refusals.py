"""What must be refused, in one sentence that helps: F13, F14, F16, F19, F20."""

import dataclasses
import json
import os
import pickle
import random
import re
import string
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import children
from faults.children import NANO, Runs, end, said, start
from faults.trials import Outcome, fault, last_logged, require_equal, wait_for_step

from latte.latte import Latte
from latte.official_checkpoint import load_official_latte
from pipelines.data.clip_index import build_index
from pipelines.data.data_config import DataConfig
from pipelines.data.latent_cache import LatentCache
from pipelines.inputs.experiment import Experiment
from pipelines.metrics.i3d_weights import load_i3d
from pipelines.metrics.lpips_distance import load_lpips
from pipelines.parts.weights.restricted_pickle import read_tree
from pipelines.run.checkpoint import load_latest
from pipelines.run.config import load_config
from pipelines.run.manifest import MANIFEST
from vae.registry import load_autoencoder
from vae.ssf2020 import load_ssf2020

ROOT = Path(__file__).resolve().parents[2]
ALL = children.STAGES
CLOSE = 2  # edits between a typo and the option that was meant


@fault("F13", "after caching: other VAE weights, other resolution, other files", "refused with the command, 3/3", 3, 0)
def stale_cache(folder: Path, trials: int) -> Outcome:
    from safetensors.torch import load_file, save_file

    outcome, runs = Outcome(), Runs(folder, ALL)

    def other_weights(run: Path) -> tuple[str, ...]:
        for file in (run / "train_vae").glob("*/*.safetensors"):
            tensors = load_file(file)
            save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, file)
            (file.parent / MANIFEST).unlink()  # as a training that went on would leave it
        return ()

    def other_resolution(run: Path) -> tuple[str, ...]:
        return ("data.resolution=48",)

    def other_files(run: Path) -> tuple[str, ...]:
        next((run / "prepare_data" / "moving_shapes").glob("*/*")).unlink()
        root = f"data.root={run / 'prepare_data' / 'moving_shapes'}"
        children.run("prepare_data", runs.arguments(run.name, root), runs.log)
        return (root,)

    for change in (other_weights, other_resolution, other_files)[:trials]:
        name, log = change.__name__, folder / f"{change.__name__}.log"
        arguments = runs.new(name)
        options = change(folder / name)
        codes = end(start("train_latte", [*arguments, *options], log))
        is_fine = codes == [2] and "made from another" in said(log) and "cache_latents.py" in said(log)
        outcome.count(is_fine, f"{name}: {codes} {said(log)}")
    return outcome


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Callable, tuple]:
        return (open, (str(self.sentinel), "w"))


@fault(
    "F14",
    "pickles that would run code, in place of .pt .pth .bin .npy .pkl .ckpt .metadata",
    "never run, 13/13",
    13,
    13,
)
def pickles(folder: Path, trials: int) -> Outcome:
    outcome, sentinel = Outcome(), folder / "ran"
    content = pickle.dumps({"state_dict": Payload(sentinel), "ema": Payload(sentinel)}, protocol=2)
    for name, read in list(readers(folder, content))[:trials]:
        refused = ""
        try:
            read()
        except Exception as error:  # whatever the reader says of it
            refused = f"{type(error).__name__}: {error}"
        is_fine = not sentinel.exists() and bool(refused)
        outcome.count(is_fine, f"{name}: {'ran' if sentinel.exists() else 'was taken'} {refused}")
        sentinel.unlink(missing_ok=True)
    for opened in pickle.loads(content).values():
        opened.close()
    assert sentinel.exists(), "the payload works where pickles are run"
    return outcome


def readers(folder: Path, content: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every door by which a file of somebody else comes in, with the pickle behind it."""

    def put(name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def model(kind: str, file: str) -> Path:
        path = put(f"{kind}-{file}/{file}")
        (path.parent / "config.json").write_text(json.dumps({"_class_name": kind, "architecture": {}}))
        return path.parent

    yield "i3d .pt", lambda: load_i3d(put("i3d/i3d_pretrained_400.pt").parent)
    yield "i3d TorchScript", lambda: load_i3d(put("script/i3d_torchscript.pt").parent)
    yield "LPIPS .pth", lambda: load_lpips(put("alex/alexnet-owt-7be5be79.pth").parent)
    yield "VGG .pth", lambda: load_lpips(put("vgg/vgg16-397923af.pth").parent, "vgg")
    yield "arrays of a package", lambda: read_tree(content)
    yield "ssf2020 .pth.tar", lambda: load_ssf2020(put("ssf.pth.tar"), {"width": 8, "downscale": 2})
    yield "official Latte .pt", lambda: load_official_latte(put("latte.pt"), None)
    yield "autoencoder .bin", lambda: load_autoencoder(model("DeCoVAE", "diffusion_pytorch_model.bin"))
    yield "autoencoder .safetensors", lambda: load_autoencoder(model("DeCoVAE", "diffusion_pytorch_model.safetensors"))
    latte = model("Latte", "diffusion_pytorch_model.bin")
    yield "Latte .bin", lambda: Latte.from_pretrained(latte, use_safetensors=True, low_cpu_mem_usage=False)
    step = put("run/checkpoints/step-00000001/state.pkl").parent
    put("run/checkpoints/step-00000001/.metadata")
    yield "checkpoint .pkl, .metadata", lambda: load_latest(step.parent)
    put("cache/metadata.json")
    put("cache/shard-00000.npy")
    yield "latents .npy", lambda: LatentCache(folder / "cache")
    put("videos/a.avi")
    yield "video", lambda: build_index(DataConfig(root=str(folder / "videos"), probe_workers=1), 0)


@fault(
    "F16", "random typos and wrong types in options", "200/200 refused before a run, suggestion within 2 edits", 200, 60
)
def typos(folder: Path, trials: int) -> Outcome:
    outcome, suggested, close = Outcome(), 0, 0
    known = list(options_of(Experiment))
    for _ in range(trials):
        name, kind = random.choice(known)
        wrong_type = random.random() < 0.3 and kind in (int, float, bool)
        changed = name if wrong_type else misspell(name)
        argument = f"{changed}={'[1, {a: b}]' if wrong_type else 1}"
        try:
            load_config(Experiment, [argument], NANO, Experiment())
        except ValueError as error:
            text = str(error)
            is_named = changed.rpartition(".")[2] in text
            outcome.count(is_named and "\n" not in text, f"{argument}: {text}")
            if not wrong_type:
                close += 1
                suggested += name.rpartition(".")[2] in re.sub(re.escape(changed), "", text)
        else:
            outcome.count(False, f"{argument} was taken")
    outcome.figures = {"typos within 2 edits": close, "answered with the right option": suggested}
    if close and suggested < 0.9 * close:
        outcome.count(False, f"only {suggested} of {close} typos got a suggestion")
    return outcome


def options_of(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option with its type."""
    kinds = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from options_of(typing.cast(type, kinds[field.name]), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", kinds[field.name]


def misspell(name: str) -> str:
    """One or two edits of the last word that give no other option."""
    section, _, word = name.rpartition(".")
    others = {option.rpartition(".")[2] for option, _ in options_of(Experiment)}
    while True:
        letters = list(word)
        for _ in range(random.randint(1, CLOSE)):
            place = random.randrange(len(letters))
            edit = random.choice(("drop", "double", "change"))
            letters[place] = {
                "drop": "",
                "double": letters[place] * 2,
                "change": random.choice(string.ascii_lowercase),
            }[edit]
        changed = "".join(letters)
        if changed and changed not in others and len(word) > 3:
            return f"{section}.{changed}"
        if len(word) <= 3:
            return f"{section}.{word}q"


@fault("F19", "a second process in the folder of a running one; two torchrun on one machine", "refused; both end", 2, 0)
def two_at_once(folder: Path, trials: int) -> Outcome:
    from faults.training import is_running, torchrun, toy, wait_for

    outcome = Outcome()
    log = folder / "first.log"
    (first,) = start("train_toy", toy(folder, "same", 3000, 1000), log)
    wait_for_step(last_logged, folder / "same" / "train_toy", 1, first.is_alive)
    codes = end(start("train_toy", toy(folder, "same", 3000, 1000), folder / "second.log"))
    heard = said(folder / "second.log")
    is_refused = codes == [2] and "in use by another process" in heard and first.is_alive()
    outcome.count(is_refused and end([first]) == [0], f"{codes} {heard} {said(log)}")
    agents = [torchrun(toy(folder, name, 40), folder / f"{name}.log") for name in ("one", "two")]
    assert all(is_running(agent) for agent in agents)
    with outcome.trial("two torchrun"):
        assert [wait_for(agent) for agent in agents] == [0, 0], (folder / "one.log").read_text()[-1500:]
        require_equal(folder / "one" / "train_toy", folder / "two" / "train_toy")
    return outcome


@fault("F20", "broken torchvision, no FFmpeg, no VGG weights", "one line with the cause and what mends it, 3/3", 3, 0)
def broken_installation(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    (folder / "broken" / "torchvision").mkdir(parents=True)
    text = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (folder / "broken" / "torchvision" / "__init__.py").write_text(text)
    shown = doctor({"PYTHONPATH": str(folder / "broken")})
    causes = [line for line in shown[1].splitlines() if line.startswith("PROBLEM")]
    is_fine = len(causes) == 1 and "torchvision::nms does not exist" in causes[0] and "pip install" in shown[1]
    outcome.count(shown[0] == 1 and is_fine, f"{shown}")
    shown = doctor({"IMAGEIO_FFMPEG_EXE": str(folder / "no-ffmpeg")})
    outcome.count(shown[0] == 1 and "PROBLEM  video:" in shown[1] and "imageio-ffmpeg" in shown[1], f"{shown}")
    runs = Runs(folder, ALL[:2])
    arguments = runs.new("vgg", "vae.losses.perceptual=4", f"weights.folder={folder / 'none'}")
    codes = end(start("train_vae", arguments, folder / "vgg.log"))
    heard = said(folder / "vgg.log")
    is_fine = codes == [2] and "vae.losses.perceptual=0" in heard and "Traceback" not in heard
    outcome.count(is_fine, f"{codes} {heard}")
    return outcome


def doctor(variables: dict[str, str]) -> tuple[int, str]:
    """Exit code and report in a changed environment."""
    command = [sys.executable, str(ROOT / "pipelines" / "doctor.py"), str(NANO)]
    shown = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    return shown.returncode, shown.stdout + shown.stderr
