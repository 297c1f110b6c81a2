"""Adversarial robustness against generalization, measured on any image data set."""

__version__ = "0.1.0"
