"""The bundler: a file that holds all that a class needs, and nothing else of ours."""

import ast
import builtins
import importlib.util
import sys

import pytest
import torch
from tiny_latte import DECOUPLED, random_latents, tiny_latte
from tiny_vae import VARIANTS, clip, tiny_vae

from latte.latte import Latte
from pipelines.inputs.deco_latte import DecoLattePipeline
from pipelines.parts.export import bundle as bundler
from pipelines.parts.export.bundle import bundle, file_name, requirements
from vae.registry import MODELS

CLASSES = [Latte, DecoLattePipeline, *MODELS.values()]
every_class = pytest.mark.parametrize("source", CLASSES, ids=lambda source: source.__name__)
PACKAGES = {"diffusers", "einops", "numpy", "omegaconf", "timm", "torch"}


def load(text: str, name: str, folder):
    """Import a bundled file as diffusers does: by path, under a name of its own."""
    (folder / f"{name}.py").write_text(text)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@every_class
def test_everything_that_is_read_is_there(source: type) -> None:
    tree = ast.parse(bundle(source.__module__, source.__name__, ""))
    for node in ast.walk(tree):  # annotations are not evaluated
        for field in ("annotation", "returns"):
            if hasattr(node, field):
                setattr(node, field, None)
    bound, read = set(dir(builtins)) | {"__file__"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    assert read <= bound


@every_class
def test_nothing_of_the_project_is_imported(source: type) -> None:
    text = bundle(source.__module__, source.__name__, "")
    assert set(requirements([text])) <= PACKAGES
    assert bundle(source.__module__, source.__name__, "") == text
    top = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert source.__name__ == top[-1].name or source is DecoLattePipeline
    names = {node.name for node in top}
    assert not names & {"LatteTask", "training_loss", "load_autoencoder", "build_scheduler", "DecoLattePipelineConfig"}


@pytest.mark.parametrize("variant", ["plain", "default", "paper", "concat"])
def test_a_bundled_autoencoder_computes_the_same(variant: str, tmp_path) -> None:
    ours = tiny_vae(variant).eval()
    module = load(bundle(type(ours).__module__, type(ours).__name__, ""), f"bundled_{variant}", tmp_path)
    theirs = getattr(module, type(ours).__name__)(architecture=ours.config.architecture).eval()
    theirs.load_state_dict(ours.state_dict())
    assert not isinstance(theirs, type(ours)) and VARIANTS[variant]
    with torch.no_grad():
        video = clip(batch=1)
        latents = ours.encode(video).latents
        assert all(torch.equal(latents[part], z) for part, z in theirs.encode(video).latents.items())
        assert torch.equal(theirs.decode(latents), ours.decode(latents))


def test_a_bundled_latte_computes_the_same(tmp_path) -> None:
    ours = tiny_latte(awake=True).eval()
    module = load(bundle(Latte.__module__, Latte.__name__, ""), "bundled_latte", tmp_path)
    theirs = module.Latte(ours.config.architecture, ours.config.training).eval()
    theirs.load_state_dict(ours.state_dict())
    inputs = ours.layout.pack(random_latents(DECOUPLED, 2)), torch.tensor([100.0, 900.0]), torch.tensor([0, 2])
    with torch.no_grad():
        for stream, output in ours(*inputs).items():
            assert torch.equal(theirs(*inputs)[stream], output)


def test_names_of_files_follow_their_text() -> None:
    assert file_name("modeling", "a") == file_name("modeling", "a") != file_name("modeling", "b")
    assert file_name("modeling", "a").endswith(".py")


def test_two_meanings_of_one_name_are_refused(monkeypatch, tmp_path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "one.py").write_text("SIZE = 1\n\ndef one() -> int:\n    return SIZE\n")
    (tmp_path / "vae" / "two.py").write_text(
        "from vae.one import one\nSIZE = 2\n\n# why\ndef two(x: 'int') -> int:\n    return one() + SIZE\n"
    )
    monkeypatch.setattr(bundler, "SOURCE", tmp_path)
    (tmp_path / "vae" / "three.py").write_text("THREE = {1}\nTHREE |= {3}\n")
    bundler.read_module.cache_clear()
    with pytest.raises(AssertionError, match="vae.three, line 2 cannot be bundled"):
        bundle("vae.three", "THREE", "")
    assert "# why\ndef two(x" not in bundle("vae.one", "one", "")
    with pytest.raises(AssertionError, match=r"vae.two and vae.one both define SIZE"):
        bundle("vae.two", "two", "")
    bundler.read_module.cache_clear()
