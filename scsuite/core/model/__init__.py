"""The network: layers, initial weights, averaged weights, layer summary and checkpoint files."""

from scsuite.core.model.network import ResNet3, build_model

__all__ = ["ResNet3", "build_model"]
