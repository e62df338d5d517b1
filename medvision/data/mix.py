"""MixUp and CutMix: blending the images and targets of a batch with one another."""

import torch

from medvision.randomness import key


def blend(
    images: torch.Tensor, targets: torch.Tensor, num_classes: int, *, mixup: float, cutmix: float, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each sample with its neighbour in the batch; with both alphas above 0, a coin decides which way.

    Args:
        images: (B, C, H, W) uint8.
        targets: (B,) int64 in [0, num_classes).
        num_classes: number of classes K.
        mixup: alpha of the Beta distribution of MixUp's weights (arXiv:1710.09412); 0 switches it off.
        cutmix: alpha of the Beta distribution of CutMix's areas (arXiv:1905.04899); 0 switches it off.
        seed: the run's seed.
        step: the training step; with the seed it fixes the blend.

    Returns:
        (B, C, H, W) float32 in [0, 255] and (B, K) float32 whose rows sum to 1; the arguments themselves when both
        alphas are 0.
    """
    if not (mixup or cutmix):
        return images, targets
    from torchvision.transforms import v2  # takes a second to import, which most runs need not spend

    ways: list[v2.Transform] = []
    if mixup:
        ways.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix:
        ways.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    # torchvision draws from torch's global generator on the CPU; manual_seed() would reseed the other devices too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, step, "mix"))
        mixed_images, mixed_targets = v2.RandomChoice(ways)(images.float(), targets)
    return mixed_images, mixed_targets
