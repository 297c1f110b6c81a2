"""The training of classifiers and of VAE-GANs."""
