"""Loading of embeddings: row index, training matrix and input statistics."""
