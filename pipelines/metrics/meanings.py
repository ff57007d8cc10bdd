"""What every score means, in words."""

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
