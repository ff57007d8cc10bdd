"""Every shipped YAML loads and fits its models, every option is read somewhere, every README command is understood."""

import ast
import dataclasses
import shlex
import typing
from pathlib import Path

import pytest
import torch
import yaml

from pipelines import chain
from pipelines.inputs.experiment import Experiment
from pipelines.run.config import describe_options, field_comments, load_config
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.benchmarks.options import Benchmark
from vae.registry import build_autoencoder

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))  # overlays, which need a base: test_overlays.py
PRODUCT = [path for room in ("vae", "latte", "pipelines") for path in (ROOT / room).rglob("*.py")]


def load(*arguments, schema=Experiment):
    return load_config(schema, [str(argument) for argument in arguments], ROOT / "configs" / "demo.yaml")


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


def options(schema=Experiment):
    for field in dataclasses.fields(schema):
        kind = typing.get_type_hints(schema)[field.name]
        yield schema, field.name
        if dataclasses.is_dataclass(kind):
            yield from options(kind)


def test_every_option_is_read_and_explained():
    read = set()
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)  # getattr(config, "keyframe_encoder")
    unread = {f"{schema.__name__}.{name}" for schema, name in options() if name not in read}
    assert unread == set()
    for schema, name in options():
        if schema is not Experiment:
            assert field_comments(schema).get(name), f"{schema.__name__}.{name} has no comment that says what it means"


def test_help_lists_every_section():
    text = describe_options(Experiment, [field.name for field in dataclasses.fields(Experiment)])
    for option in ("data.root", "vae.deco_vae.latent_channels.motion", "latte.size", "sample.guidance_scale"):
        assert f"  {option}: " in text


def readme_commands():
    blocks = (ROOT / "README.md").read_text().split("```bash\n")[1:]
    for line in (line for block in blocks for line in block.split("```")[0].splitlines()):
        words = shlex.split(line, comments=True)
        script = next((word for word in words if word.startswith("pipelines/")), None)
        if script:
            arguments = words[words.index(script) + 1 :]
            yield script, arguments[1:] if script == "pipelines/benchmark.py" else arguments  # its first word is a kind


@pytest.mark.parametrize(("script", "arguments"), list(readme_commands()), ids=lambda value: str(value))
def test_readme_commands_are_understood(script, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (ROOT / script).is_file()
    load(
        *arguments,
        schema={"pipelines/ablate.py": AblationStudy, "pipelines/benchmark.py": Benchmark}.get(script, Experiment),
    )


def test_readme_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in (ROOT / "README.md").read_text().split("```bash\n")[1].split("```")[0].splitlines():
        assert line.startswith("make ")
        assert f"\n{line.split()[1]}:" in makefile


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
