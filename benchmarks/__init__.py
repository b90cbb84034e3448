"""Speed and memory beside timm, on a CPU and on a GPU."""
