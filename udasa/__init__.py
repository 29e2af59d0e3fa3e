"""Preference pairs without human labels: three uncertainties, staged data sets, staged DPO, paired evaluation."""

__version__ = "0.1.0"
