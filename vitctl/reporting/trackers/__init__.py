"""Trackers that a finished, stopped or running run is told to: one file each, ``to_NAME.py``."""
