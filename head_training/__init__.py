"""Training, evaluation and report of a head on frozen embeddings, without Spark."""
