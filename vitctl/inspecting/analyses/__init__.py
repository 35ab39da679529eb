"""The analyses of ``vitctl inspect``, one file each with four names; ``vitctl.inspecting.catalogue`` finds them.

``Options``: its settings, the options of its sub-command. ``WORDS``: what it asks and what to look for. ``analyse``:
from models and images to ``Findings``. ``judge``: what the papers claim of it, held against what was found. Help pages
read these files, so torch and numpy are imported inside of functions; long arithmetic stands in a module of its own.
"""
