"""Ground truth of the images: findings, label sets, the metadata CSV, and train, val and test splits."""
