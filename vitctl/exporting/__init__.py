"""A timm model as files for other programs (ONNX, torch.export, transformers, Google's npz), read back and checked."""

from vitctl.primitives.torchvision_operators import declare_missing_operators

declare_missing_operators()
