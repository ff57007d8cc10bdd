"""The objectives: noise per part, losses against closed forms, label dropout, what the layout pads, micro-batches."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from tiny_latte import DECOUPLED, PLAIN, keyed_draws, random_latents, tiny_latte
from torch.distributions import Normal, kl_divergence

from latte.diffusion import draw_noise, loss_at, predict, training_loss
from latte.embeddings import drop_labels
from latte.noise_schedule import Chain, Level, signal_levels
from latte.times import draw_times, draw_uniform

CPU = torch.device("cpu")
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS = torch.cumprod(1 - BETAS, dim=0)


def noise_for(model, batch):
    return draw_noise(model, [torch.Generator().manual_seed(i) for i in range(batch)], CPU)


def test_the_zero_output_of_a_fresh_model_gives_the_closed_form_loss():
    """For a prediction of zero the error is the mean square of what is to be predicted."""
    latents, times = random_latents(PLAIN, 64), torch.linspace(0, 0.99, 64)
    alpha = ALPHAS[(times * 1000).long()].float().reshape(-1, 1, 1, 1, 1)
    for objective in ("flow", "epsilon", "v"):
        model = tiny_latte(PLAIN, objective=objective)
        noise = noise_for(model, 64)
        _, terms = loss_at(model, latents, torch.zeros(64, dtype=torch.long), times, noise)
        x, e = latents["video"], noise["video"]
        target = {"flow": e - x, "epsilon": e, "v": alpha.sqrt() * e - (1 - alpha).sqrt() * x}[objective]
        torch.testing.assert_close(terms["loss_video"], target.square().mean())


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("objective", ["flow", "epsilon", "v"])
def test_clean_latents_and_noise_come_back_from_the_target(objective, zero_terminal_snr):
    clean, noise = torch.randn(2, 6, 2, 1, 3, 3)
    level = Level.of(objective, torch.tensor([0, 1, 200, 500, 900, 998]), zero_terminal_snr)
    noisy = level.add_noise(clean, noise)
    ours = level.clean_and_noise(objective, noisy, level.target(objective, clean, noise))
    # epsilon divides by the signal that is left: 0.006 of it at the last steps
    tolerance = 1e-3 if objective == "epsilon" else 1e-5
    torch.testing.assert_close(ours[0], clean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours[1], noise, rtol=1e-4, atol=1e-5)


def test_the_ends_of_the_noise():
    clean, noise = torch.randn(2, 1, 2, 1, 3, 3)
    for objective in ("flow", "epsilon", "v"):
        assert torch.equal(Level.of(objective, torch.tensor([-1])).add_noise(clean, noise), clean)
    last = Level.of("v", torch.tensor([999]), zero_terminal_snr=True)
    assert torch.equal(last.add_noise(clean, noise), noise)
    clean_again, noise_again = last.clean_and_noise("v", noise, last.target("v", clean, noise))
    torch.testing.assert_close(clean_again, clean)
    torch.testing.assert_close(noise_again, noise)
    assert torch.equal(Level.of("flow", torch.tensor([1000.0])).add_noise(clean, noise), noise)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_signal_levels_equal_diffusers(zero_terminal_snr):
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, rescale_betas_zero_snr=zero_terminal_snr)
    ours = signal_levels(zero_terminal_snr)
    assert ours[0] == 1 and (ours[-1] == 0) == zero_terminal_snr
    torch.testing.assert_close(ours[1:], scheduler.alphas_cumprod.double(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_min_snr_weights(objective):
    """Hang et al. 2023: the error of x_0 weighs min(SNR, gamma), whatever the model predicts."""
    plain = tiny_latte(PLAIN, awake=True, objective=objective)
    weighted = tiny_latte(PLAIN, awake=True, objective=objective, min_snr_gamma=5.0)
    latents, noise, label = random_latents(PLAIN, 1), noise_for(plain, 1), torch.tensor([1])
    for t in (20, 300, 900):
        times = torch.tensor([(t + 0.5) / 1000])
        snr = (ALPHAS[t] / (1 - ALPHAS[t])).item()
        terms, other_terms = (loss_at(model, latents, label, times, noise)[1] for model in (plain, weighted))
        losses = [loss_at(model, latents, label, times, noise)[0].item() for model in (plain, weighted)]
        bound = float(terms.get("bound", 0.0))  # it trains the variance and is not weighted
        expected = min(snr, 5) / (snr if objective == "epsilon" else snr + 1)
        assert (losses[1] - bound) / (losses[0] - bound) == pytest.approx(expected, rel=1e-3)
        torch.testing.assert_close(terms, other_terms)  # what is logged is not weighted
        # the same as the error of x_0 times min(SNR, gamma)
        with torch.no_grad():
            level = Level.of(objective, torch.tensor([t]))
            noisy = level.add_noise(latents["video"], noise["video"])
            output = predict(plain, {"video": noisy}, torch.tensor([float(t)]), label).mean["video"]
            error = (level.clean_and_noise(objective, noisy, output)[0] - latents["video"]).square().mean()
        assert losses[1] - bound == pytest.approx(float(error) * min(snr, 5), rel=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_snr_gamma": 5.0}, "min_snr_gamma is 5.0.*flow"),
        ({"objective": "epsilon", "zero_terminal_snr": True}, "zero_terminal_snr .*objective v"),
        ({"clean_keyframe_share": 0.6, "image_share": 0.5}, "add up to 1"),
        ({"clean_keyframe_share": 0.2, "layout": "channel"}, "keyframe with tokens of its own"),
        ({"objective": "score"}, "latte.objective is 'score'"),
    ],
)
def test_objectives_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_latte(**options)


@pytest.mark.parametrize("weights", [{}, {"motion": 3.0}])
def test_parts_weigh_by_their_number_of_elements(weights):
    model = tiny_latte(awake=True, part_weights=weights)
    latents = random_latents(DECOUPLED, 3)
    loss, terms = loss_at(model, latents, torch.tensor([0, 1, 2]), torch.tensor([0.1, 0.5, 0.9]), noise_for(model, 3))
    shares = {part: weights.get(part, 1.0) * x.numel() for part, x in latents.items()}
    expected = sum(share * terms[f"loss_{part}"] for part, share in shares.items()) / sum(shares.values())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("objective", ["flow", "epsilon", "v"])
def test_copies_of_the_keyframe_share_noise_and_padding_stays_empty(objective):
    model = tiny_latte(awake=True, layout="channel", objective=objective)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]["keyframe_motion_residual"]))
    training_loss(model, random_latents(DECOUPLED, 2), torch.tensor([0, 1]), keyed_draws([1, 2]))
    keyframe, others = seen[0].split([6, 6], dim=1)
    assert all(torch.equal(keyframe[:, :, t], keyframe[:, :, 0]) for t in range(5))
    assert not others[:, :, 0].any() and others[:, :, 1:].all()


@pytest.mark.parametrize("objective", ["flow", "epsilon", "v"])
def test_padded_frames_get_no_loss(objective):
    model = tiny_latte(awake=True, layout="channel", objective=objective)
    outputs = []

    def keep(_, __, output):
        outputs.append(output["keyframe_motion_residual"])
        outputs[0].retain_grad()

    model.register_forward_hook(keep)
    loss, _ = training_loss(model, random_latents(DECOUPLED, 2), torch.tensor([0, 1]), keyed_draws([1, 2]))
    loss.backward()
    gradient = outputs[0].grad[:, :12]  # the noise or velocity channels
    assert not gradient[:, 6:, 0].any()
    assert gradient[:, 6:, 1:].all() and gradient[:, :6].all()


@pytest.mark.parametrize("objective", ["flow", "epsilon", "v"])
def test_a_clip_without_motion_frames(objective):
    shapes = {"keyframe": (6, 1, 4, 4), "motion": (2, 0, 4, 4), "residual": (4, 0, 4, 4)}
    model = tiny_latte(shapes, awake=True, objective=objective)
    loss, terms = training_loss(model, random_latents(shapes, 2), torch.tensor([0, 1]), keyed_draws([1, 2]))
    assert torch.isfinite(loss) and set(terms) <= {"loss_keyframe", "bound"}


@pytest.mark.parametrize("objective", ["flow", "epsilon", "v"])
def test_micro_batches_add_up_to_the_batch(objective):
    model = tiny_latte(awake=True, objective=objective)
    latents, labels = random_latents(DECOUPLED, 4), torch.tensor([0, 1, 2, -1])
    whole, _ = training_loss(model, latents, labels, keyed_draws([5, 6, 7, 8]))
    halves = [
        training_loss(model, {k: v[s] for k, v in latents.items()}, labels[s], keyed_draws(seeds))[0]
        for s, seeds in ((slice(0, 2), [5, 6]), (slice(2, 4), [7, 8]))
    ]
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2)


def test_label_dropout():
    generators = [torch.Generator().manual_seed(i) for i in range(2000)]
    labels = torch.arange(2000) % 3
    dropped = drop_labels(labels, 3, 0.25, draw_uniform(generators))
    assert 0.22 < (dropped == 3).float().mean() < 0.28
    assert torch.equal(dropped[dropped != 3], labels[dropped != 3])
    assert drop_labels(torch.tensor([-1, 2]), 3, 0.0, torch.zeros(2)).tolist() == [3, 2]


def test_training_times():
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    model = tiny_latte(time_mean=0.5, time_std=0.8)
    logits = torch.logit(draw_times(model, generators))
    assert abs(logits.mean() - 0.5) < 0.05 and abs(logits.std() - 0.8) < 0.05
    uniform = draw_times(tiny_latte(objective="epsilon"), generators)
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.std() - 12**-0.5) < 0.01


def test_chain_levels_and_posterior_follow_ddpm():
    """Eq. 4 and 7 of DDPM, written with the betas of the full chain."""
    for t in (1, 10, 500, 999):
        chain = Chain.of(torch.tensor([t]), torch.tensor([t - 1]))
        clean, noise = torch.randn(2, 1, 2, 1, 3, 3, dtype=torch.float64)
        noisy = ALPHAS[t].sqrt() * clean + (1 - ALPHAS[t]).sqrt() * noise
        level = Level.of("epsilon", torch.tensor([t]))
        torch.testing.assert_close(level.add_noise(clean, noise), noisy, rtol=1e-5, atol=1e-6)
        mean = ALPHAS[t - 1].sqrt() * BETAS[t] / (1 - ALPHAS[t]) * clean
        mean += (1 - BETAS[t]).sqrt() * (1 - ALPHAS[t - 1]) / (1 - ALPHAS[t]) * noisy
        variance = BETAS[t] * (1 - ALPHAS[t - 1]) / (1 - ALPHAS[t])
        ours, log_variance = chain.posterior(noisy, clean, None)
        torch.testing.assert_close(ours, mean, rtol=1e-4, atol=1e-4)
        assert abs(log_variance.exp().item() / variance.item() - 1) < 1e-4
        for weight, expected in ((-1.0, variance), (1.0, BETAS[t]), (0.0, (variance * BETAS[t]).sqrt())):
            _, log_variance = chain.posterior(noisy, clean, torch.full((1, 2, 1, 3, 3), weight))
            assert abs(log_variance.exp().mean().item() / expected.item() - 1) < 1e-4


def test_respaced_steps_equal_diffusers():
    """One DDPM and one DDIM step of a chain of 50 from diffusers' schedulers (theirs) and from `Chain` (ours)."""
    options = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}
    ddim = DDIMScheduler(**options, timestep_spacing="trailing")
    ddpm = DDPMScheduler(**options, timestep_spacing="trailing", variance_type="learned_range")
    noisy, noise, weight = torch.randn(3, 1, 2, 3, 4, 4)
    for scheduler in (ddim, ddpm):
        scheduler.set_timesteps(50)
    steps = ddim.timesteps.tolist()
    for t, earlier in ((steps[0], steps[1]), (steps[20], steps[21]), (steps[-1], -1)):
        chain = Chain.of(torch.tensor([t]), torch.tensor([earlier]))
        theirs = ddim.step(noise, t, noisy).prev_sample
        clean, _ = Level.of("epsilon", torch.tensor([t])).clean_and_noise("epsilon", noisy, noise)
        torch.testing.assert_close(chain.deterministic_step(clean, noise), theirs, rtol=1e-3, atol=1e-4)
        if earlier >= 0:
            generator = torch.Generator().manual_seed(3)
            theirs = ddpm.step(torch.cat([noise, weight], dim=1), t, noisy, generator=generator).prev_sample
            fresh = torch.randn(noisy.shape, generator=generator.manual_seed(3))
            mean, log_variance = chain.posterior(noisy, clean, weight)
            torch.testing.assert_close(mean + torch.exp(log_variance / 2) * fresh, theirs, rtol=1e-3, atol=1e-4)


def test_variational_bound_is_the_divergence_in_bits():
    model = tiny_latte(PLAIN, awake=True, objective="epsilon", label_dropout=0.0)
    latents, times, labels = random_latents(PLAIN, 2), torch.tensor([0.2504, 0.8006]), torch.tensor([0, 1])
    noise = noise_for(model, 2)
    _, terms = loss_at(model, latents, labels, times, noise)
    bounds = []
    for i, t in enumerate((250, 800)):
        x, e = latents["video"][i : i + 1].double(), noise["video"][i : i + 1].double()
        noisy = ALPHAS[t].sqrt() * x + (1 - ALPHAS[t]).sqrt() * e
        prediction = predict(model, {"video": noisy.float()}, torch.tensor([float(t)]), labels[i : i + 1])
        variance = BETAS[t] * (1 - ALPHAS[t - 1]) / (1 - ALPHAS[t])
        weight = (prediction.variance["video"].double() + 1) / 2
        model_variance = torch.exp(weight * BETAS[t].log() + (1 - weight) * variance.log())
        means = []
        for estimate in (e, prediction.mean["video"].double()):
            means.append((noisy - BETAS[t] / (1 - ALPHAS[t]).sqrt() * estimate) / (1 - BETAS[t]).sqrt())  # DDPM Eq. 11
        truth, ours = Normal(means[0], variance.sqrt()), Normal(means[1], model_variance.sqrt())
        bounds.append(kl_divergence(truth, ours).mean() / torch.log(torch.tensor(2.0)))
    torch.testing.assert_close(terms["bound"].double(), torch.stack(bounds).mean(), rtol=1e-3, atol=1e-5)


def test_the_bound_trains_the_variance_only():
    model = tiny_latte(PLAIN, awake=True, objective="epsilon")
    outputs = []

    def keep(_, __, output):
        outputs.append(output["video"])
        outputs[0].retain_grad()

    model.register_forward_hook(keep)
    latents, times, noise = random_latents(PLAIN, 2), torch.tensor([0.0, 0.5]), noise_for(model, 2)
    loss, _ = loss_at(model, latents, torch.tensor([0, 1]), times, noise)
    loss.backward()
    mean, variance = outputs[0].grad.split([5, 5], dim=1)
    expected = 2 * (outputs[0][:, :5] - noise["video"]) / noise["video"].numel()  # of the mean square error alone
    torch.testing.assert_close(mean, expected)
    assert variance.all()
