"""Every video autoencoder by name. The only file that knows the rivals."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from diffusers import ModelMixin  # noqa: F401 - diffusers wants it beside the class that a saved pipeline names

from vae.choices import check_choices
from vae.deco_vae import DeCoVAE
from vae.deco_vae_config import DecoVaeConfig
from vae.interface import VideoAutoencoder
from vae.rivals.concat_vae import ConcatVAE, ConcatVaeConfig
from vae.rivals.plain_vae import PlainVAE, PlainVaeConfig

MODELS: dict[str, type[VideoAutoencoder]] = {
    "deco_vae": DeCoVAE,
    "plain_vae": PlainVAE,
    "concat_vae": ConcatVAE,
}


@dataclass(frozen=True)
class AutoencoderConfig:
    """Which autoencoder, and the architecture of each; only the named one is built."""

    name: str = "deco_vae"  # which one is built and trained: deco_vae, or a rival (plain_vae: no decoupling)
    deco_vae: DecoVaeConfig = field(default_factory=DecoVaeConfig)  # architecture of deco_vae
    plain_vae: PlainVaeConfig = field(default_factory=PlainVaeConfig)  # architecture of plain_vae
    concat_vae: ConcatVaeConfig = field(default_factory=ConcatVaeConfig)  # architecture of concat_vae

    def __post_init__(self) -> None:
        check_choices(self, "vae", name=tuple(MODELS))

    @property
    def has_motion_module(self) -> bool:
        """Whether the named autoencoder is built with a motion module."""
        return MODELS[self.name].has_motion_module(getattr(self, self.name))


def build_autoencoder(config: AutoencoderConfig) -> VideoAutoencoder:
    """A new autoencoder with random weights."""
    return MODELS[config.name](asdict(getattr(config, config.name)))


def load_autoencoder(folder: Path) -> VideoAutoencoder:
    """The autoencoder that stands in a `save_pretrained` folder, in eval mode. ValueError when there is none."""
    config_file = Path(folder) / "config.json"
    if not config_file.is_file():
        raise ValueError(
            f"{folder} holds no autoencoder (no config.json): name a run folder or a save_pretrained folder"
        )
    class_name = json.loads(config_file.read_text()).get("_class_name")
    for model_class in MODELS.values():
        if model_class.__name__ == class_name:
            return model_class.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False).eval()
    known = ", ".join(model_class.__name__ for model_class in MODELS.values())
    raise ValueError(f"{folder} holds a {class_name}, not an autoencoder of this project ({known})")
