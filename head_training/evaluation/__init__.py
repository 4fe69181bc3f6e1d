"""Evaluation of predictions: metrics with bootstrap intervals, operating points, calibration, baselines."""
