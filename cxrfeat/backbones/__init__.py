"""Frozen backbone networks: registry, weights, and the encoder that turns images into embeddings."""
