"""Benchmark of diffusion transformers: equal models behind one signature, rows and ratios, a command that goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import benchmark
from pipelines.run.config import load_config
from pipelines.run.folder import read_jsonl
from pipelines.studies.benchmarks import latte_speed
from pipelines.studies.benchmarks.latte_measurement import KINDS, PEERS, LatteJob, Predictor, make_batch, measure
from pipelines.studies.benchmarks.options import Benchmark

ROOT = Path(__file__).parents[2]
JOB = LatteJob("latte", "S/8", (4, 3, 16, 16), 2, "cpu", 0, warm_up=0, repeats=1, max_seconds=60)


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_predicts_every_latent_and_trains_every_parameter(kind):
    torch.manual_seed(0)
    predictor, batch = Predictor(replace(JOB, kind=kind)), make_batch(JOB, torch.device("cpu"))
    prediction = predictor(batch["latents"], batch["timestep"], batch["labels"])
    assert prediction.shape == batch["latents"].shape
    prediction.square().mean().backward()
    silent = {name for name, p in predictor.named_parameters() if p.grad is None or not p.grad.any()}
    unused = {name for name in silent if "caption" in name} if kind.endswith("no_caption") else set()
    assert silent == unused


def test_the_published_block_computes_what_ours_does():
    """With the same weights: a row of modulation per row of tokens, copies and all, changes no number."""
    ours, published = (Predictor(replace(JOB, kind=kind)) for kind in ("latte", "published_block"))
    theirs = ours.model.state_dict()
    renamed = {"patch_embedding": "patch_embeddings.video", "modulation": "final_layer.modulation.linear"}
    renamed |= {"head": "final_layer.heads.video"}
    inside = {"qkv": "attention.qkv", "output": "attention.output", "modulation": "modulation.linear"}
    state = {}
    for name, own in published.model.state_dict().items():
        if name.startswith("blocks."):
            blocks, number, module, rest = name.split(".", 3)
            name = f"{blocks}.{number}.{inside.get(module, module)}.{rest}"
        else:
            module, rest = name.split(".", 1)
            name = f"{renamed.get(module, module)}.{rest}"
        state[len(state)] = theirs[name].reshape(own.shape)
    published.model.load_state_dict(dict(zip(published.model.state_dict(), state.values(), strict=True)))
    batch = make_batch(JOB, torch.device("cpu"))
    inputs = (batch["latents"], batch["timestep"], batch["labels"])
    with torch.no_grad():
        torch.testing.assert_close(published(*inputs), ours(*inputs), atol=1e-5, rtol=1e-4)


def test_arithmetic_of_models_of_equal_size():
    sizes = {kind: latte_speed.size(replace(JOB, kind=kind, batch=1)) for kind in KINDS}
    width, depth, tokens, patches = 384, 12, 3 * 4, 4
    linears = 2 * tokens * width**2 * (3 + 1 + 4 + 4) * depth
    attention = {"latte": 4 * width * tokens * (patches + 3) * depth / 2, "latte_full": 4 * width * tokens**2 * depth}
    modulation = 2 * width**2 * (6 * depth + 2)
    embeddings = 2 * (tokens * 4 * 64 * width * 2 + 256 * width + width**2)
    for kind, products in attention.items():
        assert sizes[kind]["gflops"] * 1e9 == pytest.approx(linears + products + modulation + embeddings, rel=1e-4)
    assert sizes["published_block"]["gflops"] > sizes["latte"]["gflops"] + 2 * modulation / 1e9
    assert sizes["published_block"]["parameters"] == sizes["latte"]["parameters"]
    assert sizes["diffusers_latte"]["gflops"] > sizes["diffusers_latte_no_caption"]["gflops"]


@pytest.mark.parametrize("kind", ["latte", "diffusers_latte_no_caption"])
def test_measured_figures(kind):
    result = measure(replace(JOB, kind=kind, precision="bf16", repeats=2))
    for seconds in (result["forward_seconds"], result["train_step_seconds"]):
        assert len(seconds) == 2 and all(0 < second < 60 for second in seconds)
    assert 0 < result["libraries_gb"] <= result["peak_gb"]


def test_rows_take_the_fastest_pass_and_compare_the_same_precision():
    jobs = {kind: replace(JOB, kind=kind, precision="bf16") for kind in ("latte", *PEERS)}
    steps = {
        "latte": [3.0, 9.0],
        "diffusers_latte": [4.0],
        "diffusers_latte_no_caption": [3.8],
        "published_block": [6.0],
    }
    memory = {"peak_gb": 2.0, "libraries_gb": 0.5}
    results = {
        job: [{"forward_seconds": [1.0], "train_step_seconds": steps[kind], **memory}] for kind, job in jobs.items()
    }
    results[replace(JOB, precision="fp32")] = [{"forward_seconds": [2.0], "train_step_seconds": [7.0], **memory}]
    ours, theirs, bare, published, alone = latte_speed.rows(results, "NVIDIA H200")
    assert [row["name"] for row in (ours, theirs, bare, published)] == [
        "latte_s8", "diffusers_latte_s8", "diffusers_latte_s8_no_caption", "published_block_s8",
    ]  # fmt: skip
    assert (
        latte_speed.name(replace(JOB, kind="latte_keyframe_first_full", size="XL/2")) == "latte_xl2_keyframe_first_full"
    )
    assert (ours["train_step_seconds"], ours["median_step_seconds"], ours["time_to_diffusers"]) == (3.0, 6.0, 0.75)
    assert ours["samples_per_second"] == pytest.approx(2 / 3, abs=1e-4) and published["time_to_diffusers"] == 1.5
    assert theirs["cross_attention_share"] == pytest.approx(0.05)
    assert ours["mfu"] == pytest.approx(3 * ours["gflops"] * 1e9 / 3 / 989e12, abs=1e-4)
    assert "time_to_diffusers" not in alone and "mfu" not in alone and alone["dtype"] == "fp32"


def load(*arguments):
    return load_config(Benchmark, list(arguments), ROOT / "configs" / "demo.yaml")


def test_what_is_measured():
    jobs = latte_speed.plan(load(), "cpu")
    assert len(jobs) == 2 * len(KINDS) and not any(job.compile for job in jobs)
    assert [job.kind for job in jobs[: len(KINDS)]] == [*load().benchmark.latte_models]
    assert sum(job.compile for job in latte_speed.plan(load("benchmark.compile=true"), "cpu")) == 2 * len(KINDS)
    with pytest.raises(ValueError, match="benchmark.latte_models names fast: choose of latte, latte_full"):
        latte_speed.plan(load("benchmark.latte_models=[fast]"), "cpu")
    with pytest.raises(ValueError, match="latte.size"):
        latte_speed.plan(load("benchmark.latte_size=S/3"), "cpu")
    with pytest.raises(ValueError, match="benchmark.latte_latents"):
        load("benchmark.latte_latents=[16,1,32,32]")


def test_the_command_goes_on_where_it_stopped(tmp_path, capsys):
    options = ["benchmark.latte_size=S/8", "benchmark.latte_latents=[4,3,16,16]", "benchmark.rounds=1"]
    options += ["benchmark.repeats=1", "benchmark.warm_up=0", f"run.root={tmp_path}", "run.name=benchmark"]

    def run(*models):
        latte_speed.run(load(*options, f"benchmark.latte_models=[{','.join(models)}]"))
        log = read_jsonl(tmp_path / "benchmark" / "latte" / "metrics.jsonl")
        return json.loads((tmp_path / "benchmark" / "latte.json").read_text()), [line["label"] for line in log]

    first, log = run("latte")
    assert log == ["latte_s8 bf16", "latte_s8 fp32"]
    keys = {"name", "dtype", "compiled", "forward_seconds", "train_step_seconds", "peak_gb"}
    assert all(keys <= row.keys() for row in first["rows"]) and first["errors"] == {}
    assert run("latte") == (first, log)
    assert "latte_s8" in capsys.readouterr().out
    assert benchmark.KINDS["latte"][0] is latte_speed.run
