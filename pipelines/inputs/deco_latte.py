"""DecoLattePipeline: Latte + autoencoder + a scheduler as one pipeline of diffusers; export.py writes it.

from pipelines.inputs.deco_latte import DecoLattePipeline
videos = DecoLattePipeline.from_pretrained("runs/demo/export/package")(["MoveLeft"]).frames
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor

import latte.latte  # noqa: F401 - diffusers looks for the classes of a saved pipeline among imported modules
import vae.registry  # noqa: F401
from latte.diffusion import Parts, draw_noise
from latte.guidance import Guidance, guided_prediction
from latte.sampler import check_first_frame
from latte.whitening import unwhiten, whiten
from pipelines.inputs.first_frame import encode_first_frame, frame_size
from pipelines.inputs.pipeline_schedulers import fit_scheduler, model_time, scaled_input, take_step

Generators = torch.Generator | list[torch.Generator] | None
Callback = Callable[..., dict[str, Any] | None]
DATA_TIME = -1.0  # timestep of what is given: no noise
FLOAT32_MODULES = ("time_embedding", "modulation", "final_layer")  # of Latte: they run outside autocast
OUTPUT_TYPES = ("np", "pt", "pil", "latent")
SAMPLING = {"steps": 50, "guidance_scale": 1.0, "guidance_low": 0.0, "guidance_high": 1.0}
CODE_FOLDER = "diffusers_modules"  # the package into which diffusers copies code that comes with weights


@dataclass
class DecoLattePipelineOutput(BaseOutput):
    """frames: np (b, t, h, w, 3) or pt (b, t, 3, h, w) in [0, 1], pil as lists of images, or latent {part: latent}."""

    frames: Any


class DecoLattePipeline(DiffusionPipeline):
    """Class labels -> videos.

    transformer: a Latte; vae: any autoencoder of this project; scheduler: any of diffusers' that fits what the
    transformer predicts, to be swapped with `pipe.scheduler = OtherScheduler.from_config(pipe.scheduler.config)`.
    id2label: {"0": name of class 0, ...}; sampling: what a call takes where it is given nothing else (see SAMPLING).
    """

    transformer: Any  # what `register_modules` sets
    vae: Any
    scheduler: Any
    model_cpu_offload_seq: Any = "transformer->vae"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        transformer: ModelMixin,
        vae: ModelMixin,
        scheduler: Any,
        id2label: dict | None = None,
        sampling: dict | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        names = id2label or {str(number): name for number, name in enumerate(self.transformer.architecture.classes)}
        self.register_to_config(id2label=names, sampling=SAMPLING | (sampling or {}))
        self.labels = {name: int(number) for number, name in names.items()}
        self.video_processor = VideoProcessor(vae_scale_factor=1)
        self._slices_vae = self._interrupt = False

    # ------------------------------------------------------------------ generation

    @torch.no_grad()
    def __call__(
        self,
        class_labels: str | int | Sequence[str | int] | None = None,
        image: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        num_videos_per_label: int = 1,
        generator: Generators = None,
        latents: Parts | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> DecoLattePipelineOutput | tuple:
        """Generate one video per label, or `num_videos_per_label` of each.

        class_labels: names or numbers of classes; None = no class. image: first frame of all videos (PIL, numpy or
        tensor; it is resized). num_inference_steps, guidance_scale (1 = off) and guidance_interval (noise levels, 0 =
        data, 1 = noise): the exported ones where not given. generator: one for all videos, or a list with one per
        video; then a video does not depend on the others. latents: noise to begin with, {part: (b, c, t, h, w)}.
        output_type: np, pt, pil or latent (for `pipe.vae.decode`). callback_on_step_end(pipe, step, timestep,
        {"latents": {part: latent}}) may return {"latents": ...} to go on with; `pipe._interrupt = True` ends the loop.
        Raises ValueError for unknown labels, a scheduler that does not fit, and settings that the model cannot follow.
        """
        check_names("output_type", [output_type], OUTPUT_TYPES)
        check_names("callback_on_step_end_tensor_inputs", callback_on_step_end_tensor_inputs, ["latents"])
        numbers = [number for number in self.get_label_ids(class_labels) for _ in range(num_videos_per_label)]
        guidance = self._guidance(guidance_scale, guidance_interval)
        generators = self._generators(generator, len(numbers))
        steps = self.config["sampling"]["steps"] if num_inference_steps is None else num_inference_steps
        with self._autocast():
            first_frame = {} if image is None else self._encode_image(image, len(numbers))
            given = whiten(self.transformer, first_frame)
            clean = self._denoise(numbers, generators, steps, guidance, latents, given, callback_on_step_end)
            clean = unwhiten(self.transformer, clean) | first_frame
            frames = clean if output_type == "latent" else self._decode(clean, output_type)
        self.maybe_free_model_hooks()
        return DecoLattePipelineOutput(frames) if return_dict else (frames,)

    def _denoise(
        self,
        numbers: list[int],
        generators: list[torch.Generator],
        steps: int,
        guidance: Guidance,
        latents: Parts | None,
        given: Parts,
        callback: Callback | None,
    ) -> Parts:
        """Noise -> whitened latents; `given` parts stay as they are. Every part has a scheduler: they keep state."""
        device, objective = self._execution_device, self.transformer.architecture.objective
        schedulers = {part: fit_scheduler(self.scheduler, objective, steps) for part in self.transformer.layout.parts}
        noisy = draw_noise(self.transformer, generators, device) if latents is None else latents
        noisy = {part: x.to(device) * getattr(schedulers[part], "init_noise_sigma", 1) for part, x in noisy.items()}
        given, labels = {part: x.to(device) for part, x in given.items()}, torch.tensor(numbers, device=device)
        first = next(iter(schedulers.values()))
        self._interrupt = False
        with self.progress_bar(total=len(first.timesteps)) as bar:
            for step, timestep in enumerate(first.timesteps):
                if self._interrupt:
                    break
                seen = {part: scaled_input(schedulers[part], x, timestep) for part, x in noisy.items()} | given
                times = dict.fromkeys(noisy, model_time(first, objective, step)) | dict.fromkeys(given, DATA_TIME)
                prediction = guided_prediction(self.transformer, seen, times, labels, guidance)
                for part in (part for part in noisy if part not in given):
                    noisy[part] = take_step(schedulers[part], prediction, part, timestep, noisy[part], generators)
                if callback is not None:
                    changed = callback(self, step, timestep, {"latents": noisy | given}) or {}
                    noisy = dict(changed.get("latents", noisy))
                bar.update()
        return noisy | given

    def get_label_ids(self, class_labels: str | int | Sequence[str | int] | None) -> list[int]:
        """Numbers of classes by name or number; None = [the null class]. ValueError for one that there is not."""
        if class_labels is None:
            return [self.transformer.num_classes]
        wanted = [class_labels] if isinstance(class_labels, str | int) else list(class_labels)
        unknown = [label for label in wanted if label not in self.labels and label not in self.labels.values()]
        if unknown:
            known = ", ".join(list(self.labels)[:10]) + (" ..." if len(self.labels) > 10 else "")
            raise ValueError(f"class_labels names {unknown}, but the classes are {known or 'none: leave it out'}")
        return [label if isinstance(label, int) else self.labels[label] for label in wanted]

    def _autocast(self) -> torch.autocast:
        """Half precision for weights that were loaded or moved so; what Latte computes in float32 stays float32."""
        dtype = next(self.transformer.patch_embeddings.parameters()).dtype
        is_half = dtype in (torch.bfloat16, torch.float16)
        if is_half:
            for name, module in self.transformer.named_modules():
                if name.split(".")[-1] in FLOAT32_MODULES:
                    module.float()
        return torch.autocast(self._execution_device.type, dtype if is_half else None, enabled=is_half)

    def _guidance(self, scale: float | None, interval: tuple[float, float] | None) -> Guidance:
        sampling, model = self.config["sampling"], self.transformer
        scale = sampling["guidance_scale"] if scale is None else scale
        if scale != 1 and not (model.num_classes and model.training_options.label_dropout):
            raise ValueError(
                f"guidance_scale is {scale}, but the model was trained without classes, or never without one: use 1"
            )
        low, high = interval or (sampling["guidance_low"], sampling["guidance_high"])
        return Guidance(scale, low, high)

    def _generators(self, generator: Generators, count: int) -> list[torch.Generator]:
        if generator is None:  # torch.manual_seed decides
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
        generators = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
        if len(generators) != count:
            raise ValueError(f"got {len(generators)} generators for {count} videos, expected one, or one per video")
        return generators

    def _encode_image(self, image: Any, count: int) -> Parts:
        height, width = frame_size(self.vae, self.transformer.layout)
        frame = self.video_processor.preprocess(image, height, width)  # (1, 3, h, w) in [-1, 1]
        parts = encode_first_frame(self.vae, frame.to(self._execution_device, self.vae.dtype))
        check_first_frame(self.transformer, parts, count)
        return {part: latent.expand(count, -1, -1, -1, -1) for part, latent in parts.items()}

    def _decode(self, latents: Parts, output_type: str) -> Any:
        count = len(next(iter(latents.values())))
        pieces = [1] * count if self._slices_vae else [count]
        split = {part: x.to(self._execution_device, self.vae.dtype).split(pieces) for part, x in latents.items()}
        videos = [self.vae.decode({part: split[part][i] for part in split}) for i in range(len(pieces))]
        return self.video_processor.postprocess_video(torch.cat(videos).float(), output_type)

    def enable_vae_slicing(self) -> None:
        """Decode one video after the other: less memory."""
        self._slices_vae = True

    def disable_vae_slicing(self) -> None:
        """Decode all videos at once."""
        self._slices_vae = False

    def enable_vae_tiling(self, tile_size: int = 256, overlap: int = 64) -> None:
        """Decode in tiles of tile_size pixels: less memory for large frames."""
        self.vae.enable_tiling(tile_size, overlap)

    def disable_vae_tiling(self) -> None:
        """Decode whole frames."""
        self.vae.disable_tiling()

    # ------------------------------------------------------------------ saving

    def save_pretrained(self, save_directory: str | os.PathLike, *arguments: Any, **options: Any) -> None:
        """As in diffusers; a pipeline whose code came with its weights takes the code along.

        Raises ValueError for push_to_hub of such a pipeline: save it first.
        """
        components = {"": self, "transformer": self.transformer, "vae": self.vae}
        modules = {name: sys.modules[type(component).__module__] for name, component in components.items()}
        files = {
            name: Path(str(module.__file__))
            for name, module in modules.items()
            if module.__name__.startswith(CODE_FOLDER)
        }
        if options.get("push_to_hub") and files:
            raise ValueError("push_to_hub would leave the code behind: save the pipeline, then upload that folder")
        super().save_pretrained(save_directory, *arguments, **options)
        name_sources(Path(save_directory), files)


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """ValueError where `names` holds what is not in `known`."""
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{option} names {', '.join(unknown)}, expected {', '.join(known)}")


def name_sources(folder: Path, files: dict[str, Path]) -> None:
    """Say in the model_index.json of a saved pipeline where its classes are; code files are copied beside it.

    files: {"" for the pipeline itself, or the name of a component: a file that holds its class and all it needs}.
    """
    index_file = folder / "model_index.json"
    index = json.loads(index_file.read_text(encoding="utf-8"))
    index["vae"] = ["vae.registry", index["vae"][1]]
    for name, file in files.items():
        target, key = folder / name / file.name, name or "_class_name"
        if file != target:
            shutil.copyfile(file, target)
        index[key] = [file.stem, index[key][1] if name else index[key]]
    index_file.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
