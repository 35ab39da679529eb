"""Pictures of a run; the only home of matplotlib."""
