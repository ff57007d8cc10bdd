"""Which files of downloaded weights a configuration can use, and whether those that are there are the known ones."""

import re
from pathlib import Path
from typing import Any

from pipelines.inputs.experiment import Experiment
from pipelines.metrics.frame_quality import LPIPS_BACKBONES
from pipelines.metrics.i3d_weights import KNOWN_BLOBS, STATE_DICT_FILES, TORCHSCRIPT_FILE, check_blob, git_blob_sha1
from pipelines.metrics.inception import INCEPTION_FILE
from pipelines.run.hashes import hash_file
from vae.perceptual import VGG_FILE

TORCHVISION = "https://download.pytorch.org/models/"
I3D = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1"


def weights_wanted(config: Experiment, trains_vae: bool) -> list[dict[str, Any]]:
    """For every use of weights {"path", "from", "use", "needed", "present": the file, "wrong": what ails it}."""
    losses, evaluate = config.vae.losses, config.evaluate
    backbone = LPIPS_BACKBONES[evaluate.lpips_network]
    files = [
        ([VGG_FILE], losses.weights_dir, "the perceptual loss; without it set vae.losses.perceptual=0"),
        ([backbone], evaluate.weights_dir, "LPIPS scores; without it they are left out"),
        ([TORCHSCRIPT_FILE, *STATE_DICT_FILES], evaluate.weights_dir, "fvd16; without it there is proxy_fvd16 only"),
        ([INCEPTION_FILE], evaluate.weights_dir, "FID and inception score of frames; without it they are left out"),
    ]
    found = []
    for names, folder, use in files:
        present = [path for name in names if (path := Path(folder) / name).is_file()]
        found.append(
            {
                "path": str(Path(folder) / names[0]),
                "from": I3D if names[0] == TORCHSCRIPT_FILE else TORCHVISION + names[0],
                "use": use,
                "needed": names == [VGG_FILE] and bool(losses.perceptual) and trains_vae,
                "present": str(present[0]) if present else "",
                "wrong": wrong_content(present[0]) if present else "",
            }
        )
    return found


def wrong_content(path: Path) -> str:
    """One sentence where the file is not the one that is known by its name; "" where it is, or nothing is known."""
    if path.name in KNOWN_BLOBS:
        try:
            check_blob(path, git_blob_sha1(path), KNOWN_BLOBS)
        except ValueError as error:
            return str(error)
    # torchvision names files after the first digits of their sha256
    expected = re.search(r"-([0-9a-f]{8})$", path.stem)
    if not expected:
        return ""
    digest = hash_file(path)
    if digest.startswith(expected[1]):
        return ""
    return f"{path} has sha256 {digest[:8]}..., expected {expected[1]}...: it is cut short or another file"
