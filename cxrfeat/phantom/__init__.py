"""Phantoms: invented chest radiographs with the archive's layout, for tests, demos and dry runs.

A phantom set looks like ChestX-ray14 from the outside (folders, file names, metadata, split lists) and
roughly like it from the inside: every finding has a visible, distinct picture. It is drawn from a seed
alone, so it can be remade anywhere and shared freely.

Phantoms carry no diagnostic meaning. They are caricatures: nothing measured on them says anything about
radiographs of people.
"""
