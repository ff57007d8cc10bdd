"""The doctor: what it finds, the command that mends it, its exit code; also where nothing can be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import doctor
from pipelines.doctor import NOTE, OK, PROBLEM
from pipelines.inputs.experiment import Experiment
from pipelines.metrics.weight_files import FILES
from pipelines.parts.doctor.weights import weights_wanted
from pipelines.run.config import load_config
from pipelines.run.stage import DEFAULT_CONFIG

ROOT = Path(__file__).resolve().parents[2]


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def test_this_machine_can_train() -> None:
    packages = list(doctor.declared_packages())
    assert {"torch", "diffusers", "av", "decord"} <= {name for name, _, _ in packages}
    assert PROBLEM not in levels(doctor.check_versions(packages))
    assert levels(doctor.check_pair()) == [OK]
    answers = doctor.ask_machine([str(ROOT / "tests" / "nano.yaml"), "vae.losses.perceptual=0"])
    assert levels(doctor.check_video(answers)) == [OK]
    assert PROBLEM not in levels(doctor.check_needs(answers["needs"]))
    lacking = doctor.check_gpu({**answers, "gpus": [], "needs": {"device": "cuda"}})
    assert levels(lacking) == [PROBLEM]


def test_a_pair_that_does_not_belong_together_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", {"torch": "2.13.0+cpu", "torchvision": "0.29.2"}.get)
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["numpy", "torch==2.15.0"])
    (finding,) = doctor.check_pair()
    assert finding.level == PROBLEM and finding.text.startswith("torchvision 0.29.2 needs torch ")
    assert "but torch 2.13.0+cpu is installed" in finding.text
    assert finding.mend.endswith(
        f"torch=={doctor.locked_version('torch')} torchvision=={doctor.locked_version('torchvision')}"
    )


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.9.1"}
    monkeypatch.setattr(doctor, "installed_version", lambda name: versions.get(name, ""))
    packages = [("torch", "2.11", False), ("omegaconf", "2.4", False), ("decord", "", True)]
    missing, old, optional, shown = doctor.check_versions(packages)
    assert missing.level == PROBLEM and "omegaconf" in missing.text and "omegaconf==" in missing.mend
    assert old.level == PROBLEM and "2.9.1 is older than 2.11" in old.text
    assert optional.level == NOTE and "PyAV" in optional.text
    assert shown.text == "torch 2.9.1"
    assert doctor.as_numbers("2.15.0+cu132") == [2, 15, 0]


def test_imports_that_raise_or_end_python_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of their own; what comes after them is tried all the same."""
    (tmp_path / "raises.py").write_text(
        "print('noise')\nraise RuntimeError('torchvision::nms does not exist\\nmore')\n"
    )
    (tmp_path / "ends.py").write_text("import os\nos._exit(9)\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.import_all(["json", "raises", "ends", "yaml", "leaves", "gone"]) == {
        "raises": "RuntimeError: torchvision::nms does not exist",
        "ends": "the import ends Python (exit 9)",
        "leaves": "SystemExit: 0",
        "gone": "ModuleNotFoundError: No module named 'gone'",
    }


def test_the_first_cause_of_failing_imports_is_the_one_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"timm": "RuntimeError: nms", "torchvision": "RuntimeError: nms", "pipelines.chain": "RuntimeError: nms"}
    monkeypatch.setattr(doctor, "import_all", lambda modules: failed)
    (finding,) = doctor.check_imports([("timm", "", False), ("torchvision", "", False)])
    assert finding.level == PROBLEM
    assert finding.text == "torchvision cannot be imported (RuntimeError: nms); nor can timm, pipelines.chain"
    assert "--force-reinstall --no-deps torch==" in finding.mend and " torchvision==" in finding.mend


def test_folders_rooms_and_weights(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert levels(doctor.check_folder(tmp_path / "runs", 10**6)) == [OK]
    (finding,) = doctor.check_folder(tmp_path / "runs", 10**18)
    assert finding.level == PROBLEM and "run.root=" in finding.mend
    assert levels(doctor.check_folder(tmp_path / "file" / "runs", 0)) == [PROBLEM]
    file, command = tmp_path / "vgg16.safetensors", "python pipelines/weights.py vgg16"
    weights = {"name": "vgg16", "use": "the loss", "needed": True, "present": "", "wrong": "", "command": command}
    needs = {"root": str(tmp_path), "disk_bytes": 0, "data": str(tmp_path / "gone"), "compiled": [], "num_workers": 0}
    findings = list(doctor.check_needs(needs | {"weights": [weights, {**weights, "needed": False}]}))
    assert levels(findings) == [OK, PROBLEM, PROBLEM, NOTE]
    assert findings[2].text == "the weights vgg16 are missing: for the loss" and findings[2].mend == command
    weights |= {"present": str(file)}
    assert levels(doctor.check_needs(needs | {"data": "", "weights": [weights]})) == [OK, OK]
    damaged = {**weights, "needed": False, "wrong": "it is another file", "command": f"rm {file} && {command}"}
    finding = list(doctor.check_needs(needs | {"data": "", "weights": [damaged]}))[-1]
    assert (finding.level, finding.text, finding.mend) == (NOTE, "it is another file", damaged["command"])
    assert levels(doctor.check_needs({"error": "Key 'lrr' not in 'LoopConfig'"})) == [PROBLEM]


def wanted(tmp_path: Path, *arguments: str, trains_vae: bool = True) -> dict[str, dict]:
    """What the doctor says of every file of weights in tmp_path."""
    config = load_config(Experiment, [f"weights.folder={tmp_path}", *arguments], DEFAULT_CONFIG)
    return {file["name"]: file for file in weights_wanted(config, trains_vae)}


def test_weights_that_a_configuration_uses_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    """The demo trains without a perceptual loss, and scores by fvd16-strict, LPIPS on AlexNet and Inception."""
    plain = wanted(tmp_path)
    assert list(plain) == ["i3d", "alexnet", "inception"] and not any(file["needed"] for file in plain.values())
    lossy = ("vae.losses.perceptual=4", "evaluate.protocol=fvd16-latte", "evaluate.frames_per_video=0")
    assert list(wanted(tmp_path, *lossy)) == ["vgg16", "i3d-torchscript", "i3d", "alexnet"]
    vgg = wanted(tmp_path, *lossy)["vgg16"]
    assert vgg["needed"] and vgg["use"] == "the perceptual loss; without it: set vae.losses.perceptual=0"
    assert vgg["command"] == f"python pipelines/weights.py vgg16 weights.folder={tmp_path}"
    assert not wanted(tmp_path, *lossy, trains_vae=False)["vgg16"]["needed"]
    assert list(wanted(tmp_path, *lossy, "vae.losses.perceptual_network=alex"))[0] == "alexnet"


def test_weights_that_are_not_the_known_ones_are_named(tmp_path: Path) -> None:
    assert [(file["present"], file["wrong"]) for file in wanted(tmp_path).values()] == [("", "")] * 3
    for name in ("alexnet", "inception"):
        (tmp_path / FILES[name][-1]).write_bytes(b"a page of an error")
    found = wanted(tmp_path)
    assert "expected 7be5be79" in found["alexnet"]["wrong"] and "expected 0cc3c7bd" in found["inception"]["wrong"]
    path = found["inception"]["present"]
    assert path == str(tmp_path / FILES["inception"][0])
    assert found["inception"]["command"] == (
        f"rm {path} && python pipelines/weights.py inception weights.folder={tmp_path}"
    )


def test_it_imports_nothing_but_the_standard_library() -> None:
    code = f"import runpy, sys; runpy.run_path({str(ROOT / 'pipelines' / 'doctor.py')!r}); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=os.sep)
    names = {name.partition(".")[0] for name in shown.stdout.split()}
    assert not names & {"torch", "numpy", "yaml", "omegaconf", "pipelines", "packaging"}
