"""One file per command, with the command's name; each reads as a table of contents."""
