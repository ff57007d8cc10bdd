"""Both layouts of an export, loaded offline in fresh processes with and without this project; the model card."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nano_run import nano
from tiny_latte import tiny_latte
from tiny_vae import tiny_vae

from pipelines import export
from pipelines.inputs.deco_latte import DecoLattePipeline
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import model_paths, resolve_model
from pipelines.parts.export.model_card import describe_scores, find_scores, without_paths
from pipelines.run.hashes import hash_folder

ROOT = Path(__file__).resolve().parents[2]
CLIP = (9, 32, 32)

# One process that begins without this project and finds it later; videos are of two classes and the seeds 3 and 4.
COMMON = """
import json, os, pathlib, pickle, shutil, sys

class WithoutProject:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vae", "latte", "pipelines"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, WithoutProject())
import numpy as np
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
torch.set_num_threads(1)
package, self_contained, scratch = (pathlib.Path(path) for path in sys.argv[1:4])
project = sys.argv[4]
expected, rows = np.load(scratch / "expected.npy"), {}

def videos(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(["left", 2], generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)]).frames

def attempt(load):
    try:
        return {"equal": bool(np.array_equal(videos(load()), expected))}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
"""

STRANGER = """
load = DiffusionPipeline.from_pretrained
rows["untrusted"] = attempt(lambda: load(self_contained))
rows["trusted"] = attempt(lambda: load(self_contained, trust_remote_code=True))
file = next(self_contained.glob("*.py"))
rows["package"] = attempt(lambda: load(package, custom_pipeline=str(file), trust_remote_code=True))

pipe = load(self_contained, trust_remote_code=True)
pipe.save_pretrained(scratch / "copy")
rows["copy"] = attempt(lambda: load(scratch / "copy", trust_remote_code=True))
rows["copy"]["code"] = {
    str(file.relative_to(scratch / "copy")): file.read_text() for file in (scratch / "copy").rglob("*.py")
}
rows["push"] = attempt(lambda: pipe.save_pretrained(scratch / "pushed", push_to_hub=True))
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
swapped = videos(pipe)
rows["swapped"] = {"finite": bool(np.isfinite(swapped).all()), "changes": bool((swapped != expected).any())}

class Payload:
    def __reduce__(self):
        return (open, (str(scratch / "executed"), "w"))

evil = scratch / "evil"
shutil.copytree(self_contained, evil)
(evil / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
(evil / "transformer" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
rows["pickle"] = attempt(lambda: load(evil, trust_remote_code=True))
rows["pickle safetensors"] = attempt(lambda: load(evil, trust_remote_code=True, use_safetensors=True))
rows["executed"] = (scratch / "executed").exists()
rows["ours"] = [name for name in sys.modules if name.split(".")[0] in ("vae", "latte", "pipelines")]
"""

OWNER = """
sys.meta_path.pop(0)
sys.path.insert(0, project)
from pipelines.inputs.deco_latte import DecoLattePipeline
rows["own"] = attempt(lambda: DecoLattePipeline.from_pretrained(package))
rows["generic"] = attempt(lambda: DiffusionPipeline.from_pretrained(package))
DecoLattePipeline.from_pretrained(package).save_pretrained(scratch / "again")
rows["again"] = attempt(lambda: DecoLattePipeline.from_pretrained(scratch / "again"))
rows["beside"] = attempt(lambda: DiffusionPipeline.from_pretrained(self_contained, trust_remote_code=True))
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory, autoencoders: Path) -> Experiment:
    """An export of tiny models that stand outside any run."""
    folder = tmp_path_factory.mktemp("export")
    tiny_latte(tiny_vae("default").latent_shapes(CLIP), awake=True).save_pretrained(folder / "latte")
    config = nano(
        folder / "runs",
        *(f"export.folder={folder / 'export'}", "sample.time_shift=1.5"),
        *(f"sample.vae={autoencoders / 'default'}", f"sample.latte={folder / 'latte'}"),
    )
    export.run(config)
    return config


@pytest.fixture(scope="module")
def folders(config: Experiment) -> dict[str, Path]:
    return {layout: Path(config.export.folder) / layout for layout in export.LAYOUTS}


@pytest.fixture(scope="module")
def rows(folders: dict[str, Path], tmp_path_factory) -> dict:
    """What happens offline to somebody who has diffusers and not this project, and then has this project too."""
    scratch = tmp_path_factory.mktemp("fresh")
    torch.set_num_threads(1)
    pipe = DecoLattePipeline.from_pretrained(folders["package"])
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(["left", 2], generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)]).frames
    np.save(scratch / "expected.npy", expected)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hub"), "OMP_NUM_THREADS": "1"}
    arguments = [*map(str, folders.values()), str(scratch), str(ROOT)]
    command = [sys.executable, "-c", COMMON + STRANGER + OWNER, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=scratch, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_self_contained_loads_without_the_project_and_gives_the_same_bits(rows: dict) -> None:
    assert rows["trusted"] == {"equal": True}
    assert rows["ours"] == []


def test_code_is_not_run_without_trust(rows: dict) -> None:
    assert rows["untrusted"]["error"] == "ValueError"
    assert "trust_remote_code=True" in rows["untrusted"]["message"]


def test_package_loads_with_the_project_and_gives_the_same_bits(rows: dict) -> None:
    assert rows["own"] == rows["again"] == {"equal": True}


def test_self_contained_loads_beside_the_project_too(rows: dict) -> None:
    assert rows["beside"] == {"equal": True}


def test_package_needs_its_own_class(rows: dict) -> None:
    assert rows["generic"]["error"] == "AttributeError" and "DecoLattePipeline" in rows["generic"]["message"]


def test_package_is_refused_where_the_project_is_not(rows: dict) -> None:
    assert rows["package"]["error"] in ("ValueError", "ImportError")
    assert "latte.latte" in rows["package"]["message"] or "vae.registry" in rows["package"]["message"]


def test_a_saved_copy_is_complete(rows: dict, folders: dict[str, Path]) -> None:
    code = rows["copy"].pop("code")
    assert rows["copy"] == {"equal": True}
    files = folders["self_contained"].rglob("*.py")
    assert code == {str(file.relative_to(folders["self_contained"])): file.read_text() for file in files}
    assert len(code) == 3
    assert rows["push"]["error"] == "ValueError" and "upload that folder" in rows["push"]["message"]


def test_the_scheduler_can_be_swapped(rows: dict) -> None:
    assert rows["swapped"]["finite"] and rows["swapped"]["changes"]


def test_a_pickle_in_place_of_weights_is_not_executed(rows: dict) -> None:
    assert not rows["executed"]
    assert {rows["pickle"]["error"], rows["pickle safetensors"]["error"]} <= {"OSError", "UnpicklingError"}


def test_code_files_have_names_of_their_own(folders: dict[str, Path]) -> None:
    index = json.loads((folders["self_contained"] / "model_index.json").read_text())
    names = [index["_class_name"][0], index["vae"][0], index["transformer"][0]]
    assert len(set(names)) == 3 and all(name[-9] == "_" for name in names), "the last eight letters are a digest"
    assert index["id2label"] == {"0": "left", "1": "right", "2": "up"}


def test_an_export_is_an_input_of_other_stages(config: Experiment, folders: dict[str, Path]) -> None:
    paths = model_paths(config)
    for reference in (folders["package"], folders["self_contained"], config.export.folder):
        for stage, path in zip(("train_latte", "train_vae"), paths, strict=True):
            found = resolve_model(str(reference), Path("nowhere"), stage)
            assert found != path and hash_folder(found) == hash_folder(path)


def test_the_card_says_how_and_from_what(folders: dict[str, Path], config: Experiment) -> None:
    cards = {layout: (folder / "README.md").read_text() for layout, folder in folders.items()}
    for text in cards.values():
        assert text.startswith("---\nlibrary_name: diffusers\n")
        assert "None were measured with these weights." in text and "left, right, up" in text
        for path in model_paths(config):
            assert f"sha256 `{hash_folder(path)}`" in text
            assert str(path) not in text
    assert "DecoLattePipeline.from_pretrained" in cards["package"]
    assert "trust_remote_code=True" in cards["self_contained"] and "diffusers, einops" in cards["self_contained"]
    settings = {"root": "/data/clips/mine", "loop": {"steps": 3}, "init_from": ""}
    assert without_paths(settings) == {"root": "mine", "loop": {"steps": 3}, "init_from": ""}


def test_what_a_pipeline_cannot_do_is_said(config: Experiment, tmp_path: Path, capsys) -> None:
    options = replace(config.sample, method="heun", steps=3, cfg_channels=4)
    changed = replace(config, sample=options, export=replace(config.export, folder=str(tmp_path / "heun")))
    export.run(changed)
    said, card = capsys.readouterr().err, (tmp_path / "heun" / "package" / "README.md").read_text()
    for sentence in ("Euler with 6 steps takes the place of Heun with 3", "sample.cfg_channels is left out"):
        assert sentence in said and sentence in card
    index = json.loads((tmp_path / "heun" / "package" / "model_index.json").read_text())
    assert index["sampling"]["steps"] == 6


def test_scores_are_those_of_the_exported_weights(tmp_path: Path) -> None:
    inputs = {name: {"path": "", "hash": f"hash of {name}"} for name in ("latte", "vae")}

    def write(name: str, made_from: dict, ema_length: float = 0.0) -> None:
        records = {
            f"evaluate/{name}/scores.json": {"reconstruction": {"psnr": 30.0}, "generation": {"class_accuracy": None}},
            f"evaluate/{name}/provenance.json": {"inputs": {"samples": {"hash": name}}},
            f"sample/{name}/provenance.json": {
                "inputs": made_from,
                "settings": {"sample": {"ema_length": ema_length}},
            },
        }
        for path, content in records.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(json.dumps(content))

    write("these", inputs)
    write("others", inputs | {"latte": {"path": "", "hash": "something else"}})
    write("guided", inputs | {"guide": {"path": "", "hash": "a third model"}})
    write("averaged", inputs, ema_length=0.1)
    found = find_scores(tmp_path, inputs, 0.0)
    assert list(found) == ["these"] and list(find_scores(tmp_path, inputs, 0.1)) == ["averaged"]
    table = describe_scores(found)
    assert "| psnr | 30 | PSNR of the reconstruction in dB" in table and "class_accuracy" not in table


def test_nothing_else_is_replaced(config: Experiment, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "thesis.tex").touch()
    models = (f"sample.vae={config.sample.vae}", f"sample.latte={config.sample.latte}")
    other = nano(tmp_path, f"export.folder={tmp_path}", *models)
    with pytest.raises(ValueError, match="holds other files"):
        export.run(other)
    assert [file.name for file in (tmp_path / "package").iterdir()] == ["thesis.tex"]
    export.run(config)  # an export is replaced
