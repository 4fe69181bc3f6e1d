"""The classification head: inputs, network, calibration, thresholds, bundle on disk, predictions and heat maps."""
