"""A timm model as files for other programs (ONNX, torch.export, transformers, Google's npz), read back and checked."""

from vitctl.primitives.compiler_later import keep_compiled_files
from vitctl.primitives.torchvision_operators import declare_missing_operators

declare_missing_operators()
keep_compiled_files()  # torch.export is a part of the compiler
