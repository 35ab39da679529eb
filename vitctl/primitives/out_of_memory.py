"""Whether an error says that memory is full: that is no fault of what was read or computed. Imports no torch."""

import errno
import sys

# torch on the CPU and onnxruntime have no type of error for a full memory, only what their allocators say; torch's
# mapping of a file, and that of safetensors, have the system's words
_WORDS = (
    "DefaultCPUAllocator: ",
    "Failed to allocate memory for requested buffer",
    f"Cannot allocate memory ({errno.ENOMEM})",
    f"Cannot allocate memory (os error {errno.ENOMEM})",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU, or of the computer, is full."""
    torch = sys.modules.get("torch")  # an error of its own is none where it is not imported
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or any(words in str(error) for words in _WORDS)
