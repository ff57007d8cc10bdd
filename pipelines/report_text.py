"""The words of the report: headline numbers with what they are compared against, and the meaning of every score."""

from collections.abc import Mapping, Sequence
from typing import Any

MEANINGS = {
    "psnr": "PSNR of the reconstruction in dB: frames 1 to T - 1 of held-out clips, on uint8, from the error of the "
    "whole clip, then the mean over clips. Higher is better.",
    "ssim": "Structural similarity of the same frames, 1 = equal.",
    "psnr_copy_first_frame": "The same PSNR when every frame is a copy of the true first one.",
    "psnr_warp_only": "The same PSNR of W(x₀, m): the true keyframe warped by the uncoded motion.",
    "psnr_warp_decoded": "The same PSNR of W(x̂₀, m̂): the decoded keyframe warped by the decoded motion.",
    "psnr_keyframe": "PSNR of the decoded keyframe against the first frame, in dB.",
    "lpips_alex": "Perceptual distance (LPIPS, AlexNet) of the reconstruction. Lower is better.",
    "lpips_vgg": "Perceptual distance (LPIPS, VGG16) of the reconstruction. Lower is better.",
    "clips": "Held-out clips behind the scores above.",
    "class_accuracy": "Share of generated videos that a small video classifier assigns to the class asked for. The "
    "classifier was trained on real training clips, decoded from their latents and as they are. Mean over its seeds.",
    "class_accuracy_real": "The same classifiers on real held-out clips.",
    "class_accuracy_real_decoded": "The same on real held-out clips after encoding and decoding: what a perfect "
    "generator would reach.",
    "class_accuracy_first_frame": "Classifiers trained and tested on first frames alone, on real held-out clips: what "
    "can be told without motion.",
    "diversity": "Mean pairwise distance of generated videos within a class over that of real clips: about 1 when "
    "faithful, 0 when one video repeats.",
    "fvd16": "Fréchet video distance over 16 frames on I3D features. Lower is better.",
    "proxy_fvd16": "PROXY: the Fréchet video distance over 16 frames on the I3D network with fixed random weights "
    "that see change only, because its weights file is absent. It compares runs of this project only and is no FVD.",
    "kernel_distance_i3d": "Kernel distance (polynomial MMD, unbiased) of the features of fvd16: no Gaussian assumed, "
    "so it needs fewer videos. Lower is better; it may be a little below 0.",
    "inception_score_i3d": "How sure the I3D network is of a video, and how varied its answers are. Higher is better.",
    "inception_score_torchvision": "Inception score of single frames, with torchvision's weights. Higher is better.",
    "fid_torchvision": "Fréchet distance of single frames in Inception features, with torchvision's weights.",
    "rfvd": "One Fréchet distance between the I3D features of held-out clips and of their reconstructions.",
    "rfvd_per_clip": "Mean squared distance between the I3D features of a clip and of its reconstruction: what papers "
    "of this family call rFVD.",
    "proxy_rfvd": "PROXY: rfvd with random weights.",
    "proxy_rfvd_per_clip": "PROXY: rfvd_per_clip with random weights.",
    "proxy_frechet_temporal": "PROXY: Fréchet distance to held-out clips in the energy of differences between "
    "successive frames, in four bands of spatial frequency. Lower is better; 0 = alike.",
    "proxy_frechet_flow": "PROXY: Fréchet distance to held-out clips in statistics of the flow that the run's motion "
    "module sees between successive frames, and of what the flow leaves unexplained.",
    "proxy_frechet_latents_residual": "PROXY: Fréchet distance to held-out clips in the energy of the whitened "
    "residual latents of the run's autoencoder.",
    "proxy_frechet_classifier": "PROXY: Fréchet distance to held-out clips in what a small video classifier, trained "
    "on the real training clips, sees of a video, together with the class asked for.",
}
CURVES = {
    "train_motion": "self-supervised: warp the first frame of a clip onto the others",
    "train_vae": "the autoencoder, starting from the motion module",
    "train_latte": "the diffusion transformer on whitened latents",
}


def headline(
    scores: Mapping[str, Mapping[str, Any]], stages: Mapping[str, Mapping[str, Any]], num_classes: int
) -> list[dict[str, Any]]:
    """The tiles at the top of the page: {"name", "value", "unit", "bars", "note"}; the first bar is that value."""
    clips, videos = scores["reconstruction"], scores["generation"]
    tiles = [
        {
            "name": "Reconstruction of held-out clips",
            "value": f"{clips['psnr']:.1f}",
            "unit": "dB PSNR",
            "bars": bars(
                [
                    ("reconstruction", clips["psnr"]),
                    ("warp, decoded", clips.get("psnr_warp_decoded")),
                    ("warp, uncoded", clips.get("psnr_warp_only")),
                    ("first frame copied", clips["psnr_copy_first_frame"]),
                ],
                ".1f",
            ),
            "note": f"Mean over {clips['clips']} clips.",
        }
    ]
    if "class_accuracy" in videos:
        tiles.append(
            {
                "name": "Class accuracy of generated videos",
                "value": f"{videos['class_accuracy']:.3f}",
                "unit": "",
                "bars": bars(
                    [
                        ("generated", videos["class_accuracy"]),
                        ("real clips", videos["class_accuracy_real"]),
                        ("first frame alone", videos["class_accuracy_first_frame"]),
                        ("chance", 1 / num_classes),
                    ],
                    ".3f",
                ),
                "note": "Judged by a small classifier trained on real clips and their reconstructions.",
            }
        )
    tiles.append(
        {
            "name": "Diversity within a class",
            "value": f"{videos['diversity']:.2f}",
            "unit": "of real clips",
            "bars": bars([("generated", videos["diversity"]), ("real clips", 1.0)], ".2f"),
            "note": "Mean pairwise distance, relative to that of real clips.",
        }
    )
    return [*tiles, frechet_tile(videos), cost_tile(stages)]


def frechet_record(videos: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of the Frechet video distance, real or proxy, among the scores of generated videos."""
    return next(v for name, v in videos.items() if name.startswith(("fvd", "proxy_fvd")) and name.endswith("_record"))


def frechet_tile(videos: Mapping[str, Any]) -> dict[str, Any]:
    """The Frechet video distance, called a proxy where it is one."""
    record = frechet_record(videos)
    counts = f"{record['num_fake']} generated against {record['num_real']} real clips, {record['num_sets']} set(s)"
    is_proxy, floor = record["name"].startswith("proxy"), (record.get("floor") or {}).get("value")
    return {
        "name": "Fréchet video distance, proxy" if is_proxy else "Fréchet video distance",
        "value": f"{record['value']:,.0f}" if record["value"] >= 1000 else f"{record['value']:.4g}",
        "unit": record["name"],
        "bars": bars([("generated", record["value"]), ("two sets of real clips", floor)], ".4g"),
        "note": f"{counts}, protocol {record['protocol']['name']}{'' if record['complete'] else ' with deviations'}."
        + (" I3D with random weights: compare it with other runs of this project only." if is_proxy else ""),
    }


def cost_tile(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Time and memory of everything behind the page, the slowest stages as bars."""
    seconds = {stage: entry["seconds"] for stage, entry in stages.items()}
    slowest = sorted(seconds, key=lambda stage: -seconds[stage])[:3]
    total = sum(seconds.values())
    return {
        "name": "Whole chain",
        "value": f"{total / 60:.1f}" if total >= 60 else f"{total:.0f}",
        "unit": "minutes" if total >= 60 else "seconds",
        "bars": bars([("all stages", total), *((stage, seconds[stage]) for stage in slowest)], ".0f", " s"),
        "note": f"At most {max(entry['peak_rss_gb'] for entry in stages.values()):.1f} GB of memory.",
    }


def bars(values: Sequence[tuple[str, float | None]], digits: str, unit: str = "") -> list[dict[str, Any]]:
    """Labelled bars in proportion to the largest value; what is None is left out."""
    known = [(label, value) for label, value in values if value is not None]
    largest = max((value for _, value in known), default=0) or 1
    return [
        {"label": label, "text": f"{value:{digits}}{unit}", "percent": round(100 * max(value, 0) / largest, 1)}
        for label, value in known
    ]
