"""How a model sees: the analyses of the ViT paper (V) and of "Do ViTs see like CNNs?" (R), on any timm model.

V is arXiv 2010.11929, R is arXiv 2108.08810. An analysis takes a subject and images and returns ``Findings``: arrays,
scalars and a short table; it neither prints, draws nor writes. ``vitctl.models`` is imported before timm.
"""
