"""Web page and JSON service that score one X-ray at a time: calibrated probabilities and heat maps.

Decoding, preprocessing, embedding and prediction are the library's own; this package adds HTTP. No other package
imports FastAPI.
"""
