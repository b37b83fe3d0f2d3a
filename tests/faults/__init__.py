import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # as main does, before torch is loaded
