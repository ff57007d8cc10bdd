"""The doctor: what it finds, the command that mends it, its exit code; also where nothing can be imported."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from pipelines import doctor
from pipelines.doctor import NOTE, OK, PROBLEM
from pipelines.inputs.experiment import Experiment
from pipelines.metrics.inception import INCEPTION_FILE
from pipelines.parts.doctor.weights import weights_wanted, wrong_content
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
    answers = doctor.ask_machine([str(ROOT / "tests" / "tiny" / "nano.yaml"), "vae.losses.perceptual=0"])
    assert levels(doctor.check_video(answers)) == [OK]
    assert PROBLEM not in levels(doctor.check_needs(answers["needs"]))
    wanted = doctor.check_gpu({**answers, "gpus": [], "needs": {"device": "cuda"}})
    assert levels(wanted) == [PROBLEM]


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
    vgg = tmp_path / "vgg16-397923af.pth"
    weights = {"path": str(vgg), "from": "https://a.b/c", "use": "the loss", "needed": True, "present": "", "wrong": ""}
    needs = {"root": str(tmp_path), "disk_bytes": 0, "data": str(tmp_path / "gone"), "compiled": [], "num_workers": 0}
    findings = list(doctor.check_needs(needs | {"weights": [weights, {**weights, "needed": False}]}))
    assert levels(findings) == [OK, PROBLEM, PROBLEM, NOTE]
    assert findings[2].mend.startswith("curl ") and "vgg16-397923af.pth" in findings[2].mend
    weights |= {"present": str(vgg)}
    assert levels(doctor.check_needs(needs | {"data": "", "weights": [weights]})) == [OK, OK]
    vgg.touch()
    damaged = {**weights, "needed": False, "wrong": wrong_content(vgg)}
    finding = list(doctor.check_needs(needs | {"data": "", "weights": [damaged]}))[-1]
    assert finding.level == NOTE and "expected 397923af" in finding.text and finding.mend.startswith("curl ")
    assert levels(doctor.check_needs({"error": "Key 'lrr' not in 'LoopConfig'"})) == [PROBLEM]


def test_weights_that_are_not_the_known_ones_are_named(tmp_path: Path) -> None:
    folder = {"vae.losses.weights_dir": tmp_path, "evaluate.weights_dir": tmp_path}
    config = load_config(Experiment, [f"{key}={value}" for key, value in folder.items()], DEFAULT_CONFIG)
    assert [file["wrong"] for file in weights_wanted(config, True)] == [""] * 4
    for name in ("i3d_torchscript.pt", INCEPTION_FILE):
        (tmp_path / name).write_bytes(b"a page of an error")
    i3d, inception = (file["wrong"] for file in weights_wanted(config, True)[2:])
    assert "i3d_torchscript.pt has git-blob SHA-1" in i3d and "expected 0cc3c7bd" in inception
    digest = sha256(b"the known content").hexdigest()
    (tmp_path / f"net-{digest[:8]}.pth").write_bytes(b"the known content")
    assert not wrong_content(tmp_path / f"net-{digest[:8]}.pth")


def test_it_imports_nothing_but_the_standard_library() -> None:
    code = f"import runpy, sys; runpy.run_path({str(ROOT / 'pipelines' / 'doctor.py')!r}); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=os.sep)
    names = {name.partition(".")[0] for name in shown.stdout.split()}
    assert not names & {"torch", "numpy", "yaml", "omegaconf", "pipelines", "packaging"}
