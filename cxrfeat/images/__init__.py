"""Decoding of image files to gray pixels, and preprocessing for the backbones."""
