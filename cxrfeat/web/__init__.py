"""One page for one visitor: an X-ray in; calibrated probabilities, and where they come from, out.

The way from a file to an answer is the library's own (imaging, preprocess, encoder, predict); this package adds HTTP around
it. Only this package imports FastAPI.
"""
