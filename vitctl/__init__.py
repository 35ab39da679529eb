"""vitctl: a Vision Transformer that works on your images.

Fine-tunes a pretrained ViT at a higher resolution than it was pretrained at, evaluates it, shows how it sees,
predicts with it and exports it. Importing this package imports nothing heavy.

Who may import whom, top to bottom (``tests/rules/test_layers.py`` holds the table)::

    cli           words in, words out; the only home of Typer and rich
    workflows     one file per command; reads as a table of contents
    training evaluation exporting inspecting reporting     building blocks
    models data                                            what is trained, what it is trained on
    primitives                                  arithmetic and small tools
    config recipes conversation                 plain Python: settings, recipe files, how a workflow talks
    errors telemetry                            what can go wrong, and its exit code; what is not reported to anyone
"""

from vitctl.telemetry import switch_off as _switch_off_telemetry

# here, because whatever is imported of vitctl, this runs first; onnxruntime looks while it is imported, never again
_switch_off_telemetry()

__version__ = "0.1.0"
