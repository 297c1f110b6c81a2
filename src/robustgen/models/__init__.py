"""Architectures, cohorts of classifiers, and VAE-GANs, in plain PyTorch."""
