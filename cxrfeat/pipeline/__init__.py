"""Worker functions without Spark: images to embeddings, and embeddings to predictions."""
