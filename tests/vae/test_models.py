"""One suite over every autoencoder and configuration: shapes, causality, chunks, gradients, saving."""

from dataclasses import asdict

import pytest
import torch
from tiny_latte import check_golden
from tiny_vae import CAUSAL, DECOUPLED, VARIANTS, clip, tiny_vae, untrained

from pipelines.data.pictures import component_videos
from vae.adaptation import AdaptationConfig, set_phase
from vae.deco_vae import DeCoVAE
from vae.deco_vae_config import DecoVaeConfig, LatentChannels
from vae.encoder import BackboneConfig
from vae.motion_module import MotionModuleConfig
from vae.objective import GanConfig, LossConfig, reconstruction_objective
from vae.registry import MODELS, AutoencoderConfig, build_autoencoder, load_autoencoder
from vae.trainer import VaeTask

all_variants = pytest.mark.parametrize("variant", VARIANTS)


@all_variants
@torch.no_grad()
def test_shapes(variant):
    model, video = tiny_vae(variant), clip(num_frames=9, height=32, width=48)
    encoding = model.encode(video)
    shapes = {part: tuple(latent.shape[1:]) for part, latent in encoding.latents.items()}
    assert shapes == model.latent_shapes((9, 32, 48))
    assert {part: g.mean.shape for part, g in encoding.posterior.items()} == {
        p: z.shape for p, z in encoding.latents.items()
    }
    assert model.decode(encoding.latents).shape == video.shape


@all_variants
@torch.no_grad()
def test_one_pass_equals_encode_then_decode(variant):
    model, video = tiny_vae(variant), clip()
    coded = model(video, sample=False)
    torch.testing.assert_close(coded.reconstruction, model.decode(model.encode(video).latents), atol=1e-5, rtol=1e-5)
    shown = model.decode_components(video)["reconstruction"]
    torch.testing.assert_close(shown, coded.reconstruction, atol=1e-5, rtol=1e-5)


@all_variants
@pytest.mark.parametrize(("num_frames", "height", "width"), [(1, 32, 32), (2, 30, 45), (8, 17, 32), (13, 16, 16)])
@torch.no_grad()
def test_reconstruct_takes_any_length_and_size(variant, num_frames, height, width):
    video = clip(1, num_frames, height, width)
    reconstruction = tiny_vae(variant).reconstruct(video)
    assert reconstruction.shape == video.shape
    assert reconstruction.abs().max() <= 1


@pytest.mark.parametrize("variant", CAUSAL)
@torch.no_grad()
def test_causal(variant):
    model, video = tiny_vae(variant), clip(num_frames=13)
    assert model.causal
    changed = video.clone()
    changed[:, :, 9:] = -changed[:, :, 9:]
    before, after = model.encode(video).latents, model.encode(changed).latents
    for part in before:
        kept = model.latent_shapes((9, 32, 32))[part][1]
        assert torch.equal(before[part][:, :, :kept], after[part][:, :, :kept])
    assert any(not torch.equal(before[part], after[part]) for part in before)


@pytest.mark.parametrize("variant", CAUSAL)
@pytest.mark.parametrize("sizes", [[5, 4, 4], [1, 4, 8], [9, 4]])
@torch.no_grad()
def test_chunks_equal_the_whole(variant, sizes):
    model, video = tiny_vae(variant), clip(num_frames=13)
    whole = model.encode(video).latents
    chunks = [encoding.latents for encoding in model.encode_chunks(video.split(sizes, dim=2))]
    for part, latent in whole.items():
        joined = torch.cat([chunk[part] for chunk in chunks if part in chunk], dim=2)
        torch.testing.assert_close(joined, latent, atol=1e-5, rtol=1e-5)
    decoded = torch.cat(list(model.decode_chunks(chunks)), dim=2)
    torch.testing.assert_close(decoded, model.decode(whole), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in CAUSAL])
def test_a_repeated_keyframe_refuses_chunks(variant):
    model = tiny_vae(variant)
    assert not model.causal
    with pytest.raises(ValueError, match="cannot be coded in chunks"):
        next(model.encode_chunks([clip()]))


@all_variants
@torch.no_grad()
def test_sampling_does_not_depend_on_the_batch(variant):
    model, video = tiny_vae(variant), clip(batch=3)

    def generators(indices):
        return [torch.Generator().manual_seed(i) for i in indices]

    together = model.encode(video, sample=True, generator=generators(range(3))).latents
    alone = model.encode(video[1:2], sample=True, generator=generators([1])).latents
    for part in together:
        torch.testing.assert_close(together[part][1:2], alone[part], atol=1e-4, rtol=1e-4)
        assert not torch.equal(together[part], model.encode(video).latents[part])


@all_variants
@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("wavelet", [0.2, 0.0])
def test_every_trainable_parameter_gets_a_gradient(variant, phase, wavelet):
    """With no loss of the components' own too: then predictions are not detached."""
    losses = LossConfig(perceptual=0, kl=0, wavelet_low=wavelet, wavelet_high=wavelet)
    model, video = tiny_vae(variant), clip(num_frames=13)
    VaeTask(model, losses, GanConfig(weight=0), AdaptationConfig(), iter, list, print)
    assert set_phase(model, AdaptationConfig(phase_two_step=10), step=9 if phase == 1 else 10) == phase
    coded = model(video, sample=True, generator=[torch.Generator().manual_seed(i) for i in range(2)])
    loss, _ = reconstruction_objective(coded, video, losses, None, lambda name: [])
    loss.backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trainable)
    modules = model.motion_modules() if phase == 1 else model.keyframe_modules()
    assert {p for p in model.parameters() if not p.requires_grad} == {p for m in modules for p in m.parameters()}


@all_variants
@torch.no_grad()
def test_saved_and_loaded_is_the_same(variant, tmp_path):
    model, video = tiny_vae(variant), clip()
    model.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert torch.equal(loaded.decode(loaded.encode(video).latents), model.decode(model.encode(video).latents))


@all_variants
@torch.no_grad()
def test_golden_forward(variant):
    video = clip()
    coded = tiny_vae(variant)(video, sample=False)
    numbers = [coded.reconstruction.mean(), coded.reconstruction.std(), coded.reconstruction[0, 0, -1, 5, 5]]
    numbers += [gaussian.mean.square().mean() for gaussian in coded.posterior.values()]
    check_golden("vae_forward", variant, torch.stack(numbers))


def test_every_registered_model_has_a_variant():
    assert {name for name, _ in VARIANTS.values()} == set(MODELS)


@all_variants
def test_what_a_model_says_of_itself(variant):
    name, architecture = VARIANTS[variant]
    with torch.device("meta"):
        model = untrained(variant)
    assert AutoencoderConfig(**{"name": name, name: architecture}).has_motion_module == bool(model.motion_modules())
    assert any(isinstance(module, model.block_class) for module in model.modules())


@all_variants
@torch.no_grad()
def test_pictures_show_the_rows_that_the_model_names(variant):
    model, video = tiny_vae(variant), clip(1)
    components = {name: x[0] for name, x in model.decode_components(video).items()}
    shown = component_videos(components, video[0], model.picture_rows)
    assert list(shown) == ["original", *model.picture_rows, "reconstruction"]
    assert {tuple(pixels.shape) for pixels in shown.values()} == {(9, 32, 32, 3)}


def test_a_decoupled_clip_is_shown_component_by_component():
    rows = {"keyframe": "pixels", "motion": "flow", "warped": "pixels", "residual": "difference"}
    for variant in DECOUPLED:
        assert list(tiny_vae(variant).picture_rows.items()) == list(rows.items())


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (1, 3, 5, 30, 32)])
def test_a_training_clip_that_needs_padding_is_refused(shape):
    with pytest.raises(ValueError, match=r"4n \+ 1"):
        tiny_vae("default")(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 5, 32, 32), (1, 1, 5, 32, 32), (1, 3, 0, 32, 32)])
def test_what_is_no_video_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(b, 3, t, h, w\)"):
        tiny_vae("default").encode(torch.zeros(shape))


@pytest.mark.parametrize("variant", DECOUPLED)
@torch.no_grad()
def test_closed_loop_recoupling(variant):
    """x^ = W(x^_0, m^) + r^ on every frame, from the shown components."""
    model, video = tiny_vae(variant), clip()
    shown = model.decode_components(video)
    assert {tuple(x.shape) for x in shown.values()} == {tuple(video.shape)}
    recoupled = shown["decoded_warped"] + shown["decoded_residual"]
    torch.testing.assert_close(recoupled[:, :, 1:], shown["reconstruction"][:, :, 1:], atol=1e-5, rtol=1e-5)
    is_open_loop = getattr(model.architecture, "residual_reference", "original") == "original"
    reference = "warped" if is_open_loop else "decoded_warped"
    residual = video - shown[reference]
    torch.testing.assert_close(shown["residual"][:, :, 1:], residual[:, :, 1:], atol=1e-5, rtol=1e-5)


def test_parameter_counts_of_the_paper():
    """3 x 11,432,704 (encoders) + shared: the 62M of Table 3, without the motion module."""
    full = BackboneConfig()
    paper = DecoVaeConfig(
        motion_encoder=full,
        latent_channels=LatentChannels(16, 16, 16),
        shared_projection=True,
        keyframe_mode="repeat",
        first_frame_latent=True,
        residual_reference="original",
        residual_context=False,
        motion_decoder="shared",
        motion_module=MotionModuleConfig(downscale=1),
    )
    with torch.device("meta"):
        model = DeCoVAE(asdict(paper))
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert [sum(p.numel() for p in encoder.parameters()) for encoder in model.encoders.values()] == [11_432_704] * 3
    assert count["decoder"] == 11_432_640
    assert count["motion_module"] == 2_896_963
    assert model.num_parameters() - count["motion_module"] == 62_684_148


def test_unknown_names_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="vae.name is 'iv'.*deco_vae, plain_vae"):
        build_autoencoder(AutoencoderConfig(name="iv"))
    with pytest.raises(ValueError, match="holds no autoencoder"):
        load_autoencoder(tmp_path)
    with pytest.raises(ValueError, match="shared_projection .*motion_decoder=shared"):
        DecoVaeConfig(shared_projection=True, latent_channels=LatentChannels(4, 4, 4))
    with pytest.raises(ValueError, match="shared_projection .*latent_channels"):
        DecoVaeConfig(shared_projection=True)
