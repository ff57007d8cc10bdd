"""Any video autoencoder behind one call: those of vae/registry.py, and the folder of any video VAE of diffusers."""

import inspect
import json
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from pipelines.inputs.models import resolve_model
from vae.interface import VideoAutoencoder
from vae.registry import MODELS, load_autoencoder

SUBFOLDERS = ("", "vae")  # a model folder, or a pipeline's that holds one


class DiffusersAutoencoder(nn.Module):
    """A video or image autoencoder of diffusers: posterior means, any length and size by padding.

    Video networks want 1 + k n frames, and sizes that are multiples of what they compress by: anything else is padded
    by its last frame and border, and cropped back after decoding. Image networks see frame by frame, and so does the
    encoder of those whose decoder alone looks along time.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        encoder = getattr(network, "encoder", network)
        self.is_video = any(isinstance(module, nn.Conv3d) for module in encoder.modules())
        self.wants_length = "num_frames" in inspect.signature(network.decode).parameters
        self.frames_per_latent = compression(network, "temporal", 4)
        self.pixels_per_latent = compression(network, "spatial", 8)

    @torch.no_grad()
    def components(self, video: Tensor) -> dict[str, Tensor]:
        """video: (b, 3, t, h, w) in [-1, 1] -> {"reconstruction": the same shape}, clipped.

        Raises ValueError where the network does not take such clips, or does not give them back.
        """
        num_clips, _, num_frames, height, width = video.shape
        missing = self._missing_frames(num_frames)
        if missing:
            video = torch.cat([video, repeat(video[:, :, -1], "b c h w -> b c t h w", t=missing)], dim=2)
        multiple = 2 * self.pixels_per_latent  # some have a patch layer inside
        video = F.pad(video, (0, -width % multiple, 0, -height % multiple, 0, 0), mode="replicate")
        shown = video if self.is_video else rearrange(video, "b c t h w -> (b t) c h w")
        try:
            decoded = self._code(shown, num_frames)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{type(self.network).__name__} cannot code clips of {num_frames} frames of {height} x {width} "
                f"({reason}): it is no video autoencoder, or needs another size"
            ) from error
        if decoded.shape != shown.shape:
            raise ValueError(
                f"{type(self.network).__name__} gives clips of shape {tuple(shown.shape)} back as "
                f"{tuple(decoded.shape)}: its reconstruction cannot be scored"
            )
        decoded = decoded if self.is_video else rearrange(decoded, "(b t) c h w -> b c t h w", b=num_clips)
        return {"reconstruction": decoded[:, :, :num_frames, :height, :width].clamp(-1, 1)}

    def _missing_frames(self, num_frames: int) -> int:
        return -(num_frames - 1) % self.frames_per_latent if self.is_video else 0

    def _code(self, shown: Tensor, num_frames: int) -> Tensor:
        """What the network takes, encoded and decoded; num_frames of each clip."""
        encoded = self.network.encode(shown)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        length = {"num_frames": num_frames} if self.wants_length else {}
        return self.network.decode(latents, **length).sample


class AllegroAutoencoder(DiffusersAutoencoder):
    """AutoencoderKLAllegro, which codes 4 n frames of one clip at a time, in tiles only: here the clip is one tile."""

    def _missing_frames(self, num_frames: int) -> int:
        return -num_frames % self.frames_per_latent

    def _code(self, shown: Tensor, num_frames: int) -> Tensor:
        self.network.enable_tiling()
        for tiling in ("kernel", "stride"):
            setattr(self.network, tiling, tuple(shown.shape[2:]))
        decoded = torch.cat([super(AllegroAutoencoder, self)._code(clip, num_frames) for clip in shown.split(1)])
        return rearrange(decoded, "b t c h w -> b c t h w")


class OwnAutoencoder(nn.Module):
    """An autoencoder of this project, with the components that it has."""

    def __init__(self, network: VideoAutoencoder) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def components(self, video: Tensor) -> dict[str, Tensor]:
        """video: (b, 3, t, h, w) in [-1, 1] -> {component: (b, c, t', h, w)}, at least "reconstruction"."""
        return self.network.decode_components(self.network.pad_clip(video))


def compression(network: nn.Module, axis: str, default: int) -> int:
    """How many frames ("temporal") or pixels ("spatial") go into one latent, as far as the network tells."""
    known = {**vars(network), **dict(network.config)}
    values = (known.get(name) for name in (f"scale_factor_{axis}", f"{axis}_compression_ratio"))
    return next((int(value) for value in values if isinstance(value, int | float)), default)


def find_autoencoder(reference: str, run_folder: Path) -> Path:
    """The folder with config.json behind evaluate.vae; "" = this run's autoencoder. ValueError where there is none."""
    for subfolder in SUBFOLDERS:
        candidate = Path(reference) / subfolder
        if reference and (candidate / "config.json").is_file() and class_of(candidate).startswith("Autoencoder"):
            return candidate
    return resolve_model(reference, run_folder, "train_vae")


def class_of(folder: Path) -> str:
    """The class that config.json names, "" for none."""
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name", ""))


def open_autoencoder(folder: Path, device: torch.device) -> OwnAutoencoder | DiffusersAutoencoder:
    """The autoencoder of a `save_pretrained` folder, ours or of diffusers, by the class in its config.json.

    Weights are read from safetensors only. ValueError for a class that is no video autoencoder.
    """
    name = class_of(folder)
    if name in {model.__name__ for model in MODELS.values()}:
        return OwnAutoencoder(load_autoencoder(folder).to(device))
    model_class = getattr(diffusers, name, None) if name.startswith("Autoencoder") else None
    if model_class is None or not hasattr(model_class, "from_pretrained"):
        raise ValueError(
            f"{folder} holds a {name or 'model without a class'}, which is neither an autoencoder of this project nor "
            f"one of diffusers {diffusers.__version__}: name the folder of another in evaluate.vae"
        )
    try:
        network = model_class.from_pretrained(folder, use_safetensors=True, torch_dtype=torch.float32)
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} cannot be loaded as {name} ({reason}): it must hold safetensors weights") from error
    kind = AllegroAutoencoder if name == "AutoencoderKLAllegro" else DiffusersAutoencoder
    return kind(network.to(device).eval())
