"""Training of heads on a matrix of features: grid, stacked training, selection, calibration and the tables of a run."""
