"""vitctl: a Vision Transformer that works on your images.

Fine-tunes a pretrained ViT at a higher resolution than it was pretrained at, evaluates it, shows how it sees,
predicts with it and exports it. Importing this package imports nothing heavy.

Who may import whom, top to bottom (``tests/rules/test_layers.py`` holds the table)::

    cli           words in, words out; the only home of Typer and rich
    workflows     one file per command; reads as a table of contents
    training evaluation exporting inspecting reporting     building blocks
    models data                                            what is trained, what it is trained on
    primitives                                  arithmetic and small tools
    settings recipes guides conversation        plain Python: settings, recipe files, guides, how a workflow talks
    errors                                      what can go wrong, and the exit code of each
"""

__version__ = "0.1.0"
