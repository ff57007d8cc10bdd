"""Arithmetic against closed forms, figures of the tables, and a command that goes on where it stopped."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny_vae import NARROW, SIZES, TINY
from torch.utils.flop_counter import FlopCounterMode

from pipelines import benchmark
from pipelines.run.config import load_config
from pipelines.run.folder import read_jsonl
from pipelines.studies.benchmarks import cache_speed, vae_speed
from pipelines.studies.benchmarks.measurement import PEERS, Job, build, measure
from pipelines.studies.benchmarks.options import Benchmark
from pipelines.studies.benchmarks.speed_tables import describe_tables, option_rows, rows
from vae.blocks import ALIGNMENT, CausalDepthwiseConv
from vae.rivals.plain_vae import PlainVaeConfig

ROOT = Path(__file__).parents[2]
PLAIN = asdict(PlainVaeConfig(encoder=TINY, decoder=TINY, latent_channels=6, bottleneck="linear"))
JOB = Job(
    "plain_vae", PLAIN, num_frames=9, resolution=32, device="cpu", threads=0, warm_up=1, repeats=2, max_seconds=60
)


def block_flops(width, num_latents, cells):
    """A residual block on num_latents x cells tokens: a convolution of 3 x 3 x 3, a gated MLP."""
    hidden = -(-int(8 * width / 3) // ALIGNMENT) * ALIGNMENT
    return 2 * num_latents * cells * (27 * width + 3 * width * hidden)


def test_grouped_convolutions_are_counted_by_their_groups():
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        CausalDepthwiseConv(6)(torch.zeros(2, 5, 4, 4, 6))
    assert counter.get_total_flops() == 2 * 2 * 27 * 6 * 5 * 16
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        torch.nn.ConvTranspose2d(4, 8, 3, stride=2, groups=2)(torch.zeros(1, 4, 5, 5))
    assert counter.get_total_flops() == 2 * 9 * 4 * (8 // 2) * 25


def test_arithmetic_of_a_whole_autoencoder_equals_the_closed_form():
    size = vae_speed.size(JOB)
    num_latents, cells, low, high, channels = 3, 16, TINY.low_width, TINY.high_width, 6
    width, num_groups = low + high, num_latents - 1
    patches = {"image": (3 * 16, 9 * 16), "group": (3 * 32, 21 * 32)}  # values per patch: low band, high bands
    patch_flops = 2 * cells * (
        low * (patches["image"][0] + num_groups * patches["group"][0])
        + high * (patches["image"][1] + num_groups * patches["group"][1])
    )  # fmt: skip
    block = sum(block_flops(w, num_latents, cells) for w in (low, high, width))
    projection = 2 * num_latents * cells * width * channels
    assert size["encode_gflops"] * 1e9 == pytest.approx(patch_flops + block + 2 * projection, abs=1e3)
    assert size["decode_gflops"] * 1e9 == pytest.approx(projection + block + patch_flops, abs=1e3)
    assert size["gflops"] == pytest.approx(size["encode_gflops"] + size["decode_gflops"], abs=2e-6)
    assert size["latent_values"] == 6 * 3 * 4 * 4


def test_published_autoencoders_have_their_published_size():
    with torch.device("meta"):
        sizes = {name: sum(parameter.numel() for parameter in build(name, {}).parameters()) for name in PEERS}
    millions = {name: round(count / 1e6, 1) for name, count in sizes.items()}
    assert millions == {
        "AutoencoderKLWan": 126.9,
        "AutoencoderKLCogVideoX": 215.6,
        "AutoencoderKLHunyuanVideo": 246.5,
    }


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bf16"}, {"channels_last_3d": True}, {"training": True, "gradient_checkpointing": True}],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_measured_figures(changes):
    result = measure(replace(JOB, **changes))
    kinds = ["training_seconds"] if "training" in changes else ["encode_seconds", "decode_seconds"]
    assert [kind for kind in result if kind.endswith("seconds")] == kinds
    for kind in kinds:
        assert len(result[kind]) == JOB.repeats and all(0 < seconds < 60 for seconds in result[kind])
    assert 0 < result["libraries_gb"] <= result["peak_gb"]


def test_a_first_pass_longer_than_the_limit_counts():
    result = measure(replace(JOB, max_seconds=0))
    assert len(result["encode_seconds"]) == len(result["decode_seconds"]) == 1


def test_a_process_that_fails_is_an_error_in_words():
    assert "unknown" in vae_speed.run_process(replace(JOB, architecture={"unknown": 1}))["error"]


def answer(encode, decode, peak=2.0):
    return {"encode_seconds": encode, "decode_seconds": decode, "peak_gb": peak, "libraries_gb": 0.5, "cpu_share": 0.9}


def test_medians_ratios_and_errors_of_the_tables():
    results = {
        "deco_vae": [answer([1.0, 1.2, 9.0], [2.0, 2.0, 2.0]), answer([1.1, 1.1, 1.1], [2.2, 2.2, 2.2], peak=3.0)],
        "plain_vae": [answer([0.8], [0.8])],
        "deco_vae bf16": [answer([0.5], [1.1], peak=1.5)],
    }
    size = {"gflops": 32.0, "parameters": 5}
    sizes = dict.fromkeys(("deco_vae", "plain_vae", "AutoencoderKLWan", "missing"), size)
    table = rows(sizes, sizes, results, {"AutoencoderKLWan": "out of memory"})
    ours, plain, wan = table
    assert (ours["encode_seconds"], ours["decode_seconds"], ours["peak_gb"], ours["rounds"]) == (1.1, 2.1, 3.0, 2)
    assert ours["time_to_plain_vae"] == pytest.approx(3.2 / 1.6) and plain["time_to_plain_vae"] == 1
    assert ours["gflops_per_second"] == 10 and ours["spread"] == pytest.approx(0.1 / 3.25, abs=1e-4)
    assert ours["fastest_seconds"] == 3.0 and ours["cpu_share"] == 0.9
    assert wan == {"name": "AutoencoderKLWan", "error": "out of memory"} | size
    (option,) = option_rows(["deco_vae bf16", "deco_vae compile"], results, {})
    assert option["speedup"] == pytest.approx(2.0) and option["memory_ratio"] == 0.5
    machine = {"device": "cpu", "cpu": "a processor", "threads": 2}
    content = {"rows": table, "options": [option], "machine": machine, "settings": {"precision": "fp32"}}
    text = describe_tables(content | {"clip": {"num_frames": 17, "height": 256, "width": 256}})
    assert "a processor, 2 threads" in text and "AutoencoderKLWan : out of memory" in text
    for printed in text.split("\n\n")[1:]:
        lines = [line for line in printed.splitlines() if ": " not in line]
        assert len({len(line) for line in lines}) == 1, "columns are aligned"


def load(*arguments):
    return load_config(Benchmark, [str(argument) for argument in arguments], ROOT / "configs" / "kinetics400_256.yaml")


def test_rows_are_the_configuration_and_its_overlays():
    jobs = vae_speed.plan(load(), "cpu")
    names = [*load().benchmark.models]
    assert list(jobs)[: len(names)] == names and names[-3:] == list(PEERS)
    architectures = {name: jobs[name].architecture for name in names[:4]}
    assert architectures["deco_vae"] == asdict(load().vae.deco_vae)
    assert architectures["deco_vae_repeat"] == architectures["deco_vae"] | {"keyframe_mode": "repeat"}
    paper = load(ROOT / "configs" / "paper_kinetics400_256.yaml")
    assert architectures["deco_vae_paper"] == asdict(paper.vae.deco_vae)
    assert architectures["plain_vae"] == asdict(PlainVaeConfig()) and jobs["plain_vae"].model == "plain_vae"
    assert jobs["deco_vae gradient_checkpointing"].training and jobs["deco_vae training"].training
    assert len(set(map(str, jobs.values()))) == len(jobs), "no option measures the same as another"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("benchmark.models=[deco]", "benchmark.models names 'deco': choose of deco_vae, .*AutoencoderKLWan"),
        ("benchmark.options=[fast]", "benchmark.options names fast: choose of bf16"),
        ("benchmark.num_frames=16", r"benchmark.num_frames is 16 .* must be 4n \+ 1"),
        ("benchmark.precision=int8", "benchmark.precision is 'int8'"),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vae_speed.plan(load(options), "cpu")


def test_the_command_goes_on_where_it_stopped(tmp_path, capsys):
    """Rows that are there stay, missing ones are added, other settings are refused."""
    base = load(f"run.root={tmp_path}", "run.name=benchmark", "benchmark.num_frames=5", "benchmark.resolution=32")
    deco_vae = replace(base.vae.deco_vae, **SIZES, motion_encoder=NARROW, small_motion_decoder=NARROW)
    base = replace(base, vae=replace(base.vae, deco_vae=deco_vae))

    def run(*models, **changes):
        section = replace(base.benchmark, models=models, options=(), rounds=1, repeats=1, **changes)
        vae_speed.run(replace(base, benchmark=section))
        log = read_jsonl(tmp_path / "benchmark" / "vae" / "metrics.jsonl")
        result = json.loads((tmp_path / "benchmark" / "vae.json").read_text())
        return result, [line["label"] for line in log]

    first, log = run("plain_vae")
    assert log == ["plain_vae"]
    second, log = run("deco_vae", "plain_vae")
    assert log == ["plain_vae", "deco_vae"]
    assert [row["name"] for row in second["rows"]] == ["deco_vae", "plain_vae"]
    assert second["rows"][1] == first["rows"][0]
    keys = {"encode_seconds", "decode_seconds", "gflops", "parameters", "peak_gb", "time_to_plain_vae"}
    assert all(keys <= row.keys() for row in second["rows"])
    assert run("deco_vae", "plain_vae") == (second, log)
    assert "deco_vae " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"made with other settings: benchmark.resolution \(was 32, now 48\)"):
        run("deco_vae", resolution=48)


def test_help_and_wrong_kinds(capsys):
    for arguments, code in (([], 2), (["speed"], 2), (["--help"], 0), (["vae", "--help"], 0)):
        with pytest.raises(SystemExit) as end:
            benchmark.benchmark(arguments)
        assert end.value.code == code
    shown = capsys.readouterr()
    assert "benchmark.py vae [CONFIG.yaml" in shown.out and "benchmark.resolution: int = 256" in shown.out
    assert "benchmark.py vae" in shown.err


def test_cache_rows_are_measured_once_and_written(tmp_path, capsys):
    """Nano sizes: every row has its figures; a second call measures nothing again."""
    options = [f"run.root={tmp_path}", "run.device=cpu", "run.name=benchmark", "run.threads=1", "benchmark.rounds=1"]
    options += ["benchmark.resolution=32", "benchmark.cache_clips=3", "benchmark.cache_gb=0.002", "benchmark.repeats=3"]
    config = load_config(
        Benchmark, [str(ROOT / "tests" / "nano.yaml"), *options], ROOT / "tests" / "tiny" / "nano.yaml"
    )
    cache_speed.run(config)
    content = json.loads((tmp_path / "benchmark" / "cache.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["encode", "read moments_fp32", "read means_fp16", "train"]
    assert rows["encode"]["ratio"] == pytest.approx(
        rows["encode"]["clips_per_second"] / rows["encode"]["bare_clips_per_second"], rel=1e-2
    )
    for name, size in (("read moments_fp32", 4), ("read means_fp16", 2)):
        row = rows[name]
        assert row["gb"] == pytest.approx(0.002 * size / 4, abs=2e-4)
        assert row["gb_per_second"] == pytest.approx(row["clips_per_second"] * row["gb"] / row["clips"], rel=0.05)
    assert 0 <= rows["train"]["waiting_share"] < 1 and 0 < rows["train"]["waiting_share_without_thread"] < 1
    left = {path.name for path in (tmp_path / "benchmark" / "cache").iterdir()}
    assert not left & {"clips", "encoded", "moments_fp32", "means_fp16"}
    log = (tmp_path / "benchmark" / "cache" / "metrics.jsonl").read_text()
    capsys.readouterr()
    cache_speed.run(config)
    assert (tmp_path / "benchmark" / "cache" / "metrics.jsonl").read_text() == log
    assert "bare clips/s" in capsys.readouterr().out
