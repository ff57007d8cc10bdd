"""Presets and overlays: the paper's numbers, controls that match what they claim to match, and 50 steps of each."""

import math
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_vae import clip

from latte.config import build_records
from latte.latte import Latte
from latte.sampler import SamplerConfig
from pipelines.inputs.experiment import Experiment
from pipelines.run.config import load_config
from pipelines.run.random_keys import Draws
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from pipelines.studies.ablation.options import AblationStudy
from vae.encoder import BackboneConfig
from vae.registry import build_autoencoder
from vae.rivals.plain_vae import PlainVAE, PlainVaeConfig
from vae.trainer import VaeTask

CONFIGS = Path(__file__).parents[1] / "configs"
OVERLAYS = CONFIGS / "overlays"
BASES = ("kinetics400_256", "small_64", "ablation_64")
NAMES = (
    *("concat", "plain_vae", "no_adaptation", "freeze_and_train", "freeze_only", "train_only", "neither", "paper"),
    *("rate_matched", "open_loop", "no_context", "repeat", "first_frame_latent"),
)
LATTE_NAMES = ("latte_parity", "modern", "image_to_video")
NAMES_PER_BASE = ("plain_equal_latents", "plain_equal_parameters", "no_motion")  # they hold numbers of their base
CELLS = ("freeze_and_train", "freeze_only", "train_only", "neither")
TINY = """
data: {root: nowhere, resolution: 32, num_frames: 5}
vae:
  deco_vae:
    keyframe_encoder: &tiny {low_width: 8, high_width: 16, separate_blocks: 1, fusion_blocks: 1}
    motion_encoder: *tiny
    residual_encoder: *tiny
    decoder: *tiny
    small_motion_decoder: *tiny
    latent_channels: {keyframe: 8, motion: 2, residual: 4}
    motion_module: {width: 8}
    bottleneck: linear
  losses: {perceptual: 0}
  gan: {start_step: 47, discriminator: {width: 8, num_layers: 2}}
  adaptation: {phase_two_step: 30}
  loop: {steps: 50, global_batch_size: 2, lr: 1.0e-2, optimizer: adam}
"""
every_base = pytest.mark.parametrize("base", BASES)


def overlay(name, base):
    return OVERLAYS / base / f"{name}.yaml" if name in NAMES_PER_BASE else OVERLAYS / f"{name}.yaml"


@cache
def load(base, name=None):
    folder = CONFIGS / "studies" if base == "ablation_64" else CONFIGS
    files = [folder / f"{base}.yaml", *([overlay(name, base)] if name else [])]
    return load_config(AblationStudy, [*map(str, files), "data.root=nowhere"], CONFIGS / "demo.yaml")


def build(config):
    with torch.device("meta"):
        return build_autoencoder(config.vae)


def count(model):
    return sum(p.numel() for p in model.parameters())


def clip_shape(config):
    return config.data.num_frames, config.data.resolution, config.data.resolution


def latent_values(config):
    return sum(math.prod(shape) for shape in build(config).latent_shapes(clip_shape(config)).values())


def channels_for(config):
    """Fewest channels of a plain latent with at least as many values as the default of `config`."""
    one = replace(config.vae, name="plain_vae", plain_vae=PlainVaeConfig(latent_channels=1))
    return math.ceil(latent_values(config) / latent_values(replace(config, vae=one)))


def widths_for(config, latent_channels):
    """Widths of a plain autoencoder with the parameters of the default of `config`: as round as 0.8 % allow."""
    options, target = config.vae.deco_vae, count(build(config))

    def error(widths):
        size = replace(options.keyframe_encoder, low_width=widths[0], high_width=widths[1])
        plain = PlainVaeConfig(size, size, options.patch_size, latent_channels, options.bottleneck)
        with torch.device("meta"):
            return abs(count(PlainVAE(asdict(plain))) / target - 1)

    smallest = options.keyframe_encoder.low_width
    for step in (16, 8, 4, 2, 1):
        lows = range(-(-smallest // step) * step, 2 * smallest, step)
        near = min(lows, key=lambda low: error((low, 3 * low)))
        lows, highs = (near - step, near, near + step), (3 * near + more * step for more in range(-6, 7))
        best = min(((low, high) for high in highs for low in lows if min(low, high) > 0), key=error)
        if error(best) < 0.008:
            break
    return best


def test_all_overlays_are_there():
    assert {path.stem for path in OVERLAYS.glob("*.yaml")} == {*NAMES, *LATTE_NAMES}
    for folder in (path for path in OVERLAYS.iterdir() if path.is_dir()):
        assert folder.name in BASES
    for base in BASES:
        assert {path.stem for path in (OVERLAYS / base).iterdir()} == set(NAMES_PER_BASE)


def test_overlays_are_short_and_say_what_they_are():
    for path in OVERLAYS.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 12, path
        stage = "train_latte" if path.stem in LATTE_NAMES else "train_vae"
        assert lines[0].startswith(f"# python pipelines/{stage}.py "), path
        assert f" {path.relative_to(CONFIGS.parent)} " in lines[0], f"the command in {path} names another file"
        assert lines[1].startswith("# "), path


@every_base
def test_every_overlay_fits_every_base(base):
    before = load(base)
    for name in (*NAMES, *NAMES_PER_BASE):
        config = load(base, name)
        assert config.vae != before.vae or name == "freeze_and_train", f"{name} changes nothing in {base}"
        assert replace(config, vae=before.vae) == before, f"{name} changes more than the autoencoder"
        shapes = build(config).latent_shapes(clip_shape(config))
        assert all(math.prod(shape) > 0 for shape in shapes.values()), name


@every_base
@pytest.mark.parametrize("name", LATTE_NAMES)
def test_overlays_of_latte(base, name):
    """They change Latte and the sampler only, build a model for the base's latents, and the sampler fits it."""
    before, config = load(base), load(base, name)
    assert replace(config, latte=before.latte, sample=before.sample) == before
    assert config.latte != before.latte
    shapes = build(config).latent_shapes(clip_shape(config))
    parts = {
        part: {"shape": shape, "mean": [0.0] * shape[0], "std": [1.0] * shape[0]} for part, shape in shapes.items()
    }
    with torch.device("meta"):
        model = Latte(**build_records(config.latte, parts, ["walk", "run"]))
    settings = SamplerConfig(**{field.name: getattr(config.sample, field.name) for field in fields(SamplerConfig)})
    expected = {"latte_parity": "ddpm", "modern": "heun", "image_to_video": "euler"}
    assert settings.method_for(model) == expected[name]
    assert model.predicts_variance == (name == "latte_parity")
    assert len(model.layout.streams) == (1 if name == "latte_parity" else 2)


@every_base
def test_plain_equal_latents(base):
    expected = channels_for(load(base))
    for name in ("plain_equal_latents", "plain_equal_parameters"):
        actual = load(base, name).vae.plain_vae.latent_channels
        assert actual == expected, f"write latent_channels: {expected} into {overlay(name, base)}"


@every_base
def test_plain_equal_parameters(base):
    target, actual = (count(build(load(base, name))) for name in (None, "plain_equal_parameters"))
    if abs(actual / target - 1) >= 0.01:
        low, high = widths_for(load(base), channels_for(load(base)))
        pytest.fail(
            f"the plain autoencoder has {actual:,} parameters, the default of {base} with motion module {target:,}: "
            f"write low_width: {low}, high_width: {high} into {overlay('plain_equal_parameters', base)}"
        )


def test_the_search_for_widths_finds_them():
    low, high = widths_for(load("small_64"), 18)
    size = replace(load("small_64").vae.deco_vae.decoder, low_width=low, high_width=high)
    with torch.device("meta"):
        found = count(PlainVAE(asdict(PlainVaeConfig(size, size, latent_channels=18, bottleneck="linear"))))
    assert found == pytest.approx(count(build(load("small_64"))), rel=0.008)


@every_base
def test_no_motion_gives_its_channels_to_the_residual(base):
    channels, config = load(base).vae.deco_vae.latent_channels, load(base, "no_motion")
    expected = channels.motion + channels.residual
    actual = config.vae.deco_vae.latent_channels.residual
    assert actual == expected, f"write latent_channels: {{residual: {expected}}} into {overlay('no_motion', base)}"
    assert latent_values(config) == latent_values(load(base))
    assert build(config).motion_modules() == []


@every_base
def test_rate_matched_has_the_values_of_the_plain_autoencoder(base):
    decoupled, plain = (latent_values(load(base, name)) for name in ("rate_matched", "plain_vae"))
    assert 0.97 * plain < decoupled <= plain, f"{base} has {decoupled} latent values in rate_matched.yaml for {plain}"


@every_base
def test_concat_has_the_values_of_the_paper(base):
    concat, paper = load(base, "concat"), load(base, "paper")
    assert latent_values(concat) == latent_values(paper)
    assert concat.vae.concat_vae.motion_module == paper.vae.deco_vae.motion_module
    assert concat.vae.concat_vae.encoder == paper.vae.deco_vae.keyframe_encoder


def test_the_cells_differ_only_in_phase_two():
    sections = [load("kinetics400_256", name).vae for name in CELLS]
    phases = [section.adaptation for section in sections]
    switches = [(phase.freeze_keyframe_encoder, phase.train_motion_module) for phase in phases]
    assert switches == [(True, True), (True, False), (False, True), (False, False)]
    same = [replace(phase, freeze_keyframe_encoder=True, train_motion_module=True) for phase in phases]
    assert all(replace(section, adaptation=phase) == sections[0] for section, phase in zip(sections, same, strict=True))
    assert sections[0].gan.weight > 0, "in all cells from the same step"


def test_the_papers_preset():
    """DeCo-VAE section 4.1, from the YAML: sizes on the meta device, weights, schedule."""
    config = load("paper_kinetics400_256")
    model = build(config)
    motion = sum(count(part) for part in model.motion_modules())
    assert (count(model) - motion, motion) == (62_684_148, 2_896_963)
    assert model.latent_shapes((17, 256, 256)) == dict.fromkeys(("keyframe", "motion", "residual"), (16, 5, 32, 32))
    assert clip_shape(config) == (17, 256, 256)
    losses, gan, phases, loop = config.vae.losses, config.vae.gan, config.vae.adaptation, config.vae.loop
    assert (losses.l1, losses.perceptual, losses.kl) == (4, 4, 1e-7)
    assert (gan.weight, gan.weighting, gan.start_step) == (0.2, "constant", 400_000)
    assert (phases.phase_two_step, phases.freeze_keyframe_encoder, phases.train_motion_module) == (400_000, True, True)
    assert phases.motion_lr_scale == 1, "one learning rate"
    assert (loop.optimizer, tuple(loop.betas), loop.lr, loop.weight_decay) == ("adam", (0.5, 0.9), 5e-5, 0)
    assert (loop.schedule, loop.steps, loop.global_batch_size) == ("constant", 500_000, 8 * 5)
    full = BackboneConfig(low_width=128, high_width=384, separate_blocks=2, fusion_blocks=4)
    options = config.vae.deco_vae
    assert {options.keyframe_encoder, options.motion_encoder, options.residual_encoder, options.decoder} == {full}


@pytest.mark.parametrize("base", ["kinetics400_256", "ucf101_256"])
def test_the_papers_overlay_makes_its_preset(base):
    overlaid, preset = load(base, "paper").vae, load("paper_kinetics400_256").vae
    assert overlaid == preset


@pytest.mark.parametrize("name", [*NAMES, *NAMES_PER_BASE])
def test_every_overlay_trains(name, tmp_path):
    """50 of the loop's own updates over both phases, with the discriminator in the last: finite, and it learns."""
    base = tmp_path / "tiny.yaml"
    base.write_text(TINY)
    section = load_config(Experiment, [str(base), str(overlay(name, "ablation_64"))], base).vae
    torch.manual_seed(0)
    model = build_autoencoder(section)
    task = VaeTask(model, section.losses, section.gan, section.adaptation, iter, list, print)
    state = TrainingState(task, section.loop, tmp_path, torch.device("cpu"))
    state.set_learning_rate(section.loop.lr)
    batches = [{"video": clip(2, 5, seed=seed), "index": [0, 1], "path": ["a", "b"]} for seed in range(3)]
    logged = []
    for step in range(section.loop.steps):
        draws, item, values = Draws(0, task.stage, step, [0, 1]), batches[step % 3], {}
        for player in task.prepare_step(step):
            values |= take_step(state, accumulate_gradient(state, player, item, draws, step)).read()
        logged.append(values)
    assert all(math.isfinite(value) for values in logged for value in values.values())
    first, last = (sum(values["vae/l1"] for values in part) for part in (logged[:6], logged[-6:]))
    assert last < 0.85 * first
    assert "discriminator/loss" in logged[-1]
