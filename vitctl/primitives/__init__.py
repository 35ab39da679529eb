"""Pure arithmetic and small tools: numbers, tensors, files and devices in and out, no timm, no printing."""
