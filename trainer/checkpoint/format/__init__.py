"""The files of a checkpoint: flat ranges in safetensors, and the manifest that lists and signs them."""
