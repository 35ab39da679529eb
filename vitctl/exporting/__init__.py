"""A timm model as files for other programs (ONNX, torch.export, transformers, Google's npz), read back and checked."""

import vitctl.models  # noqa: F401  # timm and torchvision as vitctl imports them: without torch's compiler
from vitctl.primitives.compiler_later import keep_compiled_files

keep_compiled_files()  # torch.export is a part of the compiler
