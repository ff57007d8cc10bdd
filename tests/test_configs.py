"""Every shipped YAML loads and fits its models, no backbone is written twice, a typo is answered."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from pipelines import chain
from pipelines.inputs.experiment import Experiment
from pipelines.run.config import describe_options, load_config
from vae.registry import build_autoencoder

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))  # overlays, which need a base: test_overlays.py


def load(*arguments):
    return load_config(Experiment, [str(argument) for argument in arguments], ROOT / "configs" / "demo.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_yaml_loads_and_describes_its_models(path):
    data = () if path.name == "demo.yaml" else ("data.root=/somewhere",)
    config = load(path, *data)
    text = chain.describe(config)
    assert "parameters" in text
    assert "tokens per clip" in text
    head = path.read_text().splitlines()
    assert head[0].startswith("#") and "python pipelines/" in head[0], "a YAML begins with its command"
    with torch.device("meta"):
        shapes = build_autoencoder(config.vae).latent_shapes((config.data.num_frames, *[config.data.resolution] * 2))
    assert all(all(size > 0 for size in shape) for shape in shapes.values())


def test_help_lists_every_section():
    text = describe_options(Experiment, [field.name for field in dataclasses.fields(Experiment)])
    for option in ("data.root", "vae.deco_vae.latent_channels.motion", "latte.size", "sample.guidance_scale"):
        assert f"  {option}: " in text


def test_a_typo_is_answered_with_a_suggestion():
    with pytest.raises(ValueError, match="Did you mean: 'lr'"):
        load("vae.loop.lrr=1e-4")
    with pytest.raises(ValueError, match="latent_chanels"):
        load("vae.deco_vae.latent_chanels.motion=2")


def test_no_backbone_is_written_twice():
    def sizes(node):
        if isinstance(node, dict):
            found = {tuple(node.items())} if {"low_width", "high_width"} <= node.keys() else set()
            return found.union(*map(sizes, node.values()))
        return set()

    owners = {}
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        for backbone in sizes(yaml.safe_load(path.read_text())):
            assert backbone not in owners, f"{path.name} repeats the backbone of {owners[backbone]}: name it in bases"
            owners[backbone] = path.name
    assert owners
