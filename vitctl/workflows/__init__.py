"""One file per command, with the command's name; each reads as a table of contents.

Beside them: the header of finetune, and the last step of ``make demo-weights``.
"""
