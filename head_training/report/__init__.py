"""Self-contained HTML report on the data, a training run, an evaluation and example images."""
