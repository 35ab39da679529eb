"""Words in, words out: the only home of Typer and rich. Importing it imports no torch."""
