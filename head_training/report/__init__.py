"""The report: one HTML page about the data, a training, an evaluation and its films, that needs nothing else to be read."""
