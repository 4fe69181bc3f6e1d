"""Phantoms: synthetic chest radiographs in the layout of the ChestX-ray14 archives, for tests and demos.

Folders, file names, metadata and split lists follow ChestX-ray14, and every finding has a visible, distinct appearance.
A set is drawn from its seed alone, so it can be reproduced anywhere and shared freely. Phantoms have no diagnostic
meaning: a measurement on them does not transfer to radiographs of patients.
"""
