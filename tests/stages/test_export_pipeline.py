"""DecoLattePipeline as a library: the same videos as our sampler, any scheduler, options of a diffusers pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from tiny_latte import tiny_latte
from tiny_vae import tiny_vae

from latte.sampler import SamplerConfig, generate
from pipelines.inputs.deco_latte import DecoLattePipeline
from pipelines.inputs.pipeline_schedulers import build_scheduler

CLIP = (9, 32, 32)
CPU = torch.device("cpu")
SETTINGS = SamplerConfig(steps=4, guidance_scale=2.0, guidance_low=0.1, guidance_high=0.9)


def pipeline(settings: SamplerConfig = SETTINGS, variant: str = "default", **options) -> DecoLattePipeline:
    """Tiny models; weights small enough that nothing explodes on the way from noise."""
    vae = tiny_vae(variant).eval()
    model = tiny_latte(vae.latent_shapes(CLIP), awake=True, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    names = ("steps", "guidance_scale", "guidance_low", "guidance_high")
    sampling = {name: getattr(settings, name) for name in names}
    scheduler = build_scheduler(model, settings.method_for(model), settings.time_shift)
    pipe = DecoLattePipeline(model, vae, scheduler, sampling=sampling)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_ddim_arrives_where_the_model_looks_next() -> None:
    """That of diffusers steps by a stride of its own: its timesteps must lie as far apart."""
    scheduler = pipeline(replace(SETTINGS, method="ddim"), objective="v").scheduler
    scheduler.set_timesteps(8)
    assert scheduler.timesteps.tolist() == [999 - 125 * step for step in range(8)]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("euler", {"time_shift": 2.0}),
        ("DPMSolverMultistepScheduler", {"time_shift": 2.0}),
        ("ddpm", {"objective": "epsilon"}),
        ("DPMSolverMultistepScheduler", {"objective": "epsilon"}),
        ("ddpm", {"objective": "v"}),
        ("DPMSolverMultistepScheduler", {"objective": "v", "zero_terminal_snr": True}),
    ],
)
def test_it_gives_the_latents_of_our_sampler(method: str, options: dict) -> None:
    settings = replace(SETTINGS, method=method, time_shift=options.pop("time_shift", 1.0))
    pipe = pipeline(settings, **options)
    theirs = pipe(["left", "up"], generator=seeds(5, 6), output_type="latent").frames
    for sample in generate(pipe.transformer, [0, 2], [5, 6], settings, 2, CPU):
        for part, ours in sample["latents"].items():
            torch.testing.assert_close(theirs[part][sample["index"]], ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("objective", "schedulers"),
    [
        ("flow", (FlowMatchHeunDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler)),
        ("epsilon", (DPMSolverMultistepScheduler, EulerDiscreteScheduler)),
    ],
)
def test_another_scheduler_ends_near_the_same_video(objective: str, schedulers: tuple) -> None:
    """Noise is drawn once: solvers of one equation come near each other (a wrong meaning of the output: above 1)."""
    settings = replace(SETTINGS, steps=25, method={"flow": "euler"}.get(objective, "ddim"))
    pipe = pipeline(settings, objective=objective)
    first = pipe("left", generator=seeds(1), output_type="latent").frames
    for scheduler in schedulers:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        second = pipe("left", generator=seeds(1), output_type="latent").frames
        for part, latent in first.items():
            distance = (second[part] - latent).abs().mean() / latent.std()
            assert 0 < distance < 0.25, f"{scheduler.__name__} is {distance:.3f} away in {part}"


def test_a_scheduler_that_does_not_fit_is_refused() -> None:
    pipe, chain = pipeline(), pipeline(objective="epsilon")
    flow = pipe.scheduler
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="DDPMScheduler .*flow.*FlowMatchEuler"):
        pipe("left")
    chain.scheduler = flow
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler .*epsilon.*DDPM"):
        chain("left")


def test_a_video_depends_on_its_own_generator_only() -> None:
    pipe = pipeline()
    together = pipe(["left", "up", "right"], generator=seeds(1, 2, 3)).frames
    alone = pipe("up", generator=seeds(2)).frames
    assert np.abs(together[1] - alone[0]).max() <= 1 / 255
    torch.manual_seed(7)
    drawn = pipe("up", num_videos_per_label=2).frames
    torch.manual_seed(7)
    np.testing.assert_array_equal(pipe(["up", "up"]).frames, drawn)
    assert np.abs(drawn[0] - drawn[1]).max() > 1 / 255
    with pytest.raises(ValueError, match="2 generators for 3 videos"):
        pipe(["left", "up", "right"], generator=seeds(1, 2))


def test_every_kind_of_output_is_the_same_video() -> None:
    pipe = pipeline()
    videos = {kind: pipe("left", generator=seeds(1), output_type=kind).frames for kind in ("np", "pt", "pil", "latent")}
    assert videos["np"].shape == (1, 9, 32, 32, 3) and 0 <= videos["np"].min() < videos["np"].max() <= 1
    np.testing.assert_array_equal(videos["pt"].permute(0, 1, 3, 4, 2).numpy(), videos["np"])
    assert np.abs(np.stack(videos["pil"][0]) - 255 * videos["np"][0]).max() <= 0.51
    with torch.no_grad():
        decoded = pipe.vae.decode(videos["latent"])
    np.testing.assert_allclose(decoded[0].permute(1, 2, 3, 0).clamp(-1, 1) / 2 + 0.5, videos["np"][0], atol=1e-6)
    (frames,) = pipe("left", generator=seeds(1), return_dict=False)
    np.testing.assert_array_equal(frames, videos["np"])


def test_a_callback_sees_changes_and_ends_the_steps() -> None:
    pipe, seen = pipeline(), []

    def note(pipe, step, timestep, tensors):
        seen.append((step, float(timestep), {part: x.clone() for part, x in tensors["latents"].items()}))
        return {"latents": {part: torch.zeros_like(x) for part, x in tensors["latents"].items()}} if step == 3 else None

    latents = pipe("left", generator=seeds(1), output_type="latent", callback_on_step_end=note).frames
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert [time for _, time, _ in seen] == [1000, 750, 500, 250]
    for latent in latents.values():  # zeros, with the mean that the cache had
        torch.testing.assert_close(latent, torch.full_like(latent, 0.5))
    seen.clear()

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return note(pipe, step, timestep, tensors)

    pipe("left", callback_on_step_end=stop)
    assert len(seen) == 2


def test_half_precision_gives_nearly_the_same_video(tmp_path) -> None:
    pipe = pipeline()
    pipe.save_pretrained(tmp_path)
    half = DecoLattePipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.transformer.dtype == half.vae.dtype == torch.bfloat16
    for _ in range(2):  # the first call brings back to float32 what has to be
        difference = half("left", generator=seeds(1)).frames - pipe("left", generator=seeds(1)).frames
        assert 0 < np.abs(difference).mean() < 0.02


def test_given_noise_is_what_it_begins_with() -> None:
    pipe = pipeline()
    drawn = pipe("left", generator=seeds(1), output_type="latent").frames
    noise = {}
    for part, shape in pipe.transformer.layout.parts.items():
        noise[part] = torch.randn(1, *shape, generator=noise.setdefault("", seeds(1)[0]))
    del noise[""]
    given = pipe("left", latents=noise, output_type="latent").frames
    for part, latent in drawn.items():
        assert torch.equal(given[part], latent)


def test_offload_slicing_and_tiling_change_nothing() -> None:
    pipe = pipeline()
    expected = pipe(["left", "up"], generator=seeds(1, 2)).frames
    pipe.enable_model_cpu_offload(device="cpu")
    np.testing.assert_array_equal(pipe(["left", "up"], generator=seeds(1, 2)).frames, expected)
    pipe.remove_all_hooks()
    pipe.enable_vae_slicing()
    assert np.abs(pipe(["left", "up"], generator=seeds(1, 2)).frames - expected).max() <= 1 / 255
    pipe.disable_vae_slicing()
    pipe.enable_vae_tiling(32, 16)  # one tile
    np.testing.assert_allclose(pipe(["left", "up"], generator=seeds(1, 2)).frames, expected, atol=1e-5)
    pipe.disable_vae_tiling()
    assert pipe.vae.tiling is None


def test_offload_moves_the_autoencoder_before_it_decodes() -> None:
    pipe, moved = pipeline(), []
    pipe.enable_model_cpu_offload(device="cpu")
    hook = pipe.vae._hf_hook
    before = hook.pre_forward
    hook.pre_forward = lambda module, *arguments, **options: (moved.append(module), before(module))[1]
    pipe("left")
    assert moved == [pipe.vae]


def test_an_image_is_the_first_frame() -> None:
    pipe = pipeline(clean_keyframe_share=0.3)
    random = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(random).resize((32, 32), Image.Resampling.BICUBIC)
    videos = pipe(["left", "up"], image=image, generator=seeds(1, 2)).frames
    with torch.no_grad():
        frame = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
        reconstruction = pipe.vae.reconstruct(frame)[0, :, 0].permute(1, 2, 0).numpy() / 2 + 0.5
    assert np.abs(videos[:, 0] - reconstruction).max() <= 1 / 255
    assert np.abs(videos[0, 1:] - videos[1, 1:]).max() > 1 / 255
    with pytest.raises(ValueError, match="clean keyframe"):
        pipeline()("left", image=image)
    with pytest.raises(ValueError, match="keyframe.*PlainVAE"):
        pipeline(variant="plain", layout="channel")("left", image=image)


def test_what_a_user_can_get_wrong_is_one_sentence() -> None:
    pipe = pipeline()
    with pytest.raises(ValueError, match="'jump'.*left, right, up"):
        pipe(["left", "jump"])
    with pytest.raises(ValueError, match="output_type.*gif"):
        pipe("left", output_type="gif")
    with pytest.raises(ValueError, match="image_embeds.*latents"):
        pipe("left", callback_on_step_end_tensor_inputs=["image_embeds"])
    with pytest.raises(ValueError, match="guidance_scale is 2.0.*use 1"):
        pipeline(label_dropout=0.0, settings=replace(SETTINGS, guidance_scale=1.0))("left", guidance_scale=2.0)


def test_a_model_without_classes() -> None:
    pipe = pipeline(replace(SETTINGS, guidance_scale=1.0), classes=())
    assert pipe(generator=seeds(1, 2), num_videos_per_label=2).frames.shape == (2, 9, 32, 32, 3)
    with pytest.raises(ValueError, match="none: leave it out"):
        pipe("left")
